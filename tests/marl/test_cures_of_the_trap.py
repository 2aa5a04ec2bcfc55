"""What the cures pay on uphill, where the truth is known; and, slow, that an agent trapped by learning is freed by a transplant."""

import itertools
from typing import Any

import pytest
import torch
from teamcredit.envs.randomness import Clock
from teamcredit.envs.registry import make
from teamcredit.marl.agent_reward import make_agent_reward
from teamcredit.marl.config import Config
from teamcredit.marl.cures import own_parts
from teamcredit.marl.diligence import diligence
from teamcredit.marl.folder import Logbook, read_metrics
from teamcredit.marl.policies import random_policy, team_action
from teamcredit.marl.rounds import Rounds
from teamcredit.marl.run import configure, make_env, train
from teamcredit.marl.trainer import Trainer


def on_the_way() -> tuple[Any, Any, Any, Clock]:
    """Copies of a two-agent hill after some pushes: stones at every height, at the top too."""
    env = make("native/uphill-2p", height=3, steps=8, toll=0.25)
    seeds = torch.arange(256)
    state, view = env.reset(seeds)
    clock = Clock.start(seeds)
    for _ in range(5):
        state, step, view = env.step(state, random_policy(view, clock))
        clock = clock.tick(step.terminated | step.truncated)
    assert set(state.task.height.flatten().tolist()) == {0, 1, 2, 3}
    return env, state, view, clock


@pytest.mark.parametrize("joint", list(itertools.product((0, 1), repeat=2)))
def test_diligent_is_who_pushes_a_stone_that_is_not_at_the_top(joint):
    env, state, view, clock = on_the_way()
    action = torch.tensor([joint]).expand(256, -1)
    for agent in (0, 1):
        bonus = diligence(env, state, view, action, clock, agent)
        assert torch.equal(bonus, (state.task.height[:, agent] < 3) & bool(joint[agent]))


@pytest.mark.parametrize("joint", list(itertools.product((0, 1), repeat=2)))
def test_a_difference_reward_is_an_agents_own_toll_and_its_own_arrival(joint):
    env, state, view, clock = on_the_way()
    pay = make_agent_reward(Config(task="native/uphill-2p", algo="iql"), env, "difference")
    assert pay is not None
    action = torch.tensor([joint]).expand(256, -1)
    height = state.task.height
    _, step, _ = env.step(state, action)
    by_hand = action * ((height == 2) * 1.0 - (height < 3) * 0.25)
    torch.testing.assert_close(pay(env, state, view, action, step.reward, clock), by_hand.float(), rtol=0, atol=1e-6)


TRAP: dict[str, Any] = {
    "network.share": False, "network.hidden": 64, "replay.rollout_steps": 16, "replay.num_envs": 64, "replay.minibatch_size": 256,
    "replay.epochs": 2, "learner.target": "none", "learner.optimiser": "radam", "learner.td_lambda": 0.8, "learner.lr": 1e-3,
    "learner.lr_decay": "linear", "exploration.fraction": 0.1, "evaluation.every": 3000, "evaluation.episodes": 32, "compile": "off",
    "watch_credit": "evaluations", "watch.pairs": 32, "watch.max_pairs": 1536, "watch.overhead": 2.0,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["vdn", "iql"])
def test_an_agent_trapped_by_learning_is_found_and_freed_by_a_transplant(algo, tmp_path):
    ends, told = {}, {}
    for cure in ("none", "transplant"):
        treated = {} if cure == "none" else {"watch.on_lazy": "intervene", "watch.cure": cure}
        lines = read_metrics(
            train("native/uphill-3p", algo=algo, steps=60_000, seed=101, options=TRAP | treated, out=tmp_path / cure).folder
        )
        ends[cure] = next(line["return"] for line in reversed(lines) if line["event"] == "evaluation")
        told[cure] = [line["event"] for line in lines if line["event"] in ("lazy", "cure", "recovered")]
    assert told == {"none": ["lazy"], "transplant": ["lazy", "cure", "recovered"]}
    assert ends["none"] <= 2 * 0.85 + 1e-6
    assert ends["transplant"] == pytest.approx(3 * 0.85)


def choose(made: Trainer, *actions: int) -> None:
    """Make each agent's network prefer one action everywhere."""
    utility: Any = made.networks["utility"]
    named = dict(utility.named_parameters())
    with torch.no_grad():
        for agent, action in enumerate(actions):
            parts = own_parts(utility, agent)
            for name, index in parts.items():
                named[name][index] = 0.0
            named["head.bias"][parts["head.bias"]] = torch.eye(2)[action]


def test_who_is_lazy_when_nobody_earns_anything_is_treated_once_a_teammate_does(tmp_path):
    options = TRAP | {"watch.on_lazy": "intervene", "watch.cure": "transplant", "replay.num_envs": 8, "replay.minibatch_size": 128}
    config = configure(options=options | {"task": "native/uphill-3p", "algo": "vdn", "steps": 1_000_000}).config
    made = Trainer(config, make_env(config))
    made.counters.env_steps = 500_000
    with Logbook(tmp_path / "metrics.jsonl", lambda event: None, seconds=0.0) as logbook:
        rounds = Rounds(tmp_path, made, logbook, on_event=lambda event: None, stop_signal=lambda: None, meta=None)

        def look(*actions: int) -> list[int]:
            choose(made, *actions)
            rounds._look(made.play(16))
            return [each.agent for each in made.treatments]

        assert look(1, 1, 1) == []
        assert look(0, 0, 0) == []
        assert rounds.watcher is not None
        assert rounds.watcher.state.status == ("lazy",) * 3
        assert rounds.watcher.still_lazy() == (0, 1, 2)
        assert look(0, 0, 0) == []  # still nobody to follow
        assert look(1, 1, 0) == [2]
        assert rounds.watcher.state.status == ("cleared", "cleared", "cured")
    texts = [record["text"] for record in read_metrics(tmp_path) if record["event"] == "cure"]
    assert len(texts) == 4
    assert all("no teammate of" in text for text in texts[:3])
    assert "agent_2 is treated with transplant: its policy is now a copy of agent_" in texts[3]
    _, view = made.env.reset(torch.tensor([0]))
    action, _ = team_action(made.team, view, made.team.utility.initial_memory(1), Clock.start(torch.tensor([0])))
    assert action.tolist() == [[1, 1, 1]]
