"""What the cures pay on uphill, where the truth is known; and, slow, that an agent trapped by learning is freed by a transplant."""

import itertools
from typing import Any

import pytest
import torch
from teamcredit.envs.randomness import Clock
from teamcredit.envs.registry import make
from teamcredit.marl.agent_reward import make_agent_reward
from teamcredit.marl.config import Config
from teamcredit.marl.diligence import diligence
from teamcredit.marl.folder import read_metrics
from teamcredit.marl.policies import random_policy
from teamcredit.marl.run import train


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
