"""Cures touch the treated agent alone, last as long as they say, and are refused where a run cannot have them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.envs.foraging import Foraging
from teamcredit.envs.randomness import Clock
from teamcredit.marl.agents import UtilityNetwork
from teamcredit.marl.checkpoint import list_checkpoints, read
from teamcredit.marl.config import Config
from teamcredit.marl.cures import BOOST, CURES, Treatment, exploring, first_boost, own_parts, treat
from teamcredit.marl.diligence import WEIGHT, TreatedPay, diligence
from teamcredit.marl.errors import ConfigError, Interrupted
from teamcredit.marl.folder import read_metrics
from teamcredit.marl.policies import random_policy
from teamcredit.marl.run import configure, make_env, resume, train
from teamcredit.marl.trainer import Trainer
from torch import Tensor

SMALL: dict[str, Any] = {
    "task": "native/foraging-5x5-3p-1f", "algo": "iql", "steps": 2048, "network.hidden": 8, "replay.rollout_steps": 32,
    "replay.num_envs": 8, "replay.minibatch_size": 64, "compile": "off", "watch_credit": "evaluations", "watch.on_lazy": "intervene",
}  # fmt: skip


def trainer(cure: str, *, rounds: int = 1, **options: Any) -> Trainer:
    config = configure(options=SMALL | {"watch.cure": cure} | {key.replace("__", "."): value for key, value in options.items()}).config
    made = Trainer(config, make_env(config))
    for _ in range(rounds):
        made.round()
    return made


def utility(made: Trainer) -> UtilityNetwork:
    network: Any = made.networks["utility"]
    return network


def values(made: Trainer) -> Tensor:
    """Utilities of every agent on the same few observations, each agent seeing the same."""
    obs = torch.rand(5, 1, made.env.spec.obs_dim, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1)
    with torch.no_grad():
        return utility(made)(obs, utility(made).initial_memory(5))[0]


KINDS = pytest.mark.parametrize(
    "options",
    [
        {"network__share": False},
        {"network__share": True},
        {"network__share": False, "network__kind": "gru", "replay__window": 4},
        {"network__share": True, "learner__target": "none"},
    ],
)


@KINDS
def test_a_transplant_makes_the_agent_act_as_its_teammate_and_changes_nobody_else(options):
    made = trainer("transplant", **options)
    before = values(made)
    assert not torch.equal(before[:, 1], before[:, 2])
    treat(made, 1, 2)
    after = values(made)
    torch.testing.assert_close(after[:, 1], before[:, 2])
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
    made.round()  # the optimiser goes on


@KINDS
def test_a_reset_changes_the_agents_own_numbers_alone(options):
    made = trainer("reset", **options)
    before, moments = values(made), _moments(made)
    treat(made, 1, 2)
    after = values(made)
    assert not torch.allclose(after[:, 1], before[:, 1])
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
    parts = own_parts(utility(made), 1)
    for name, moment in _moments(made).items():
        changed = moment != moments[name]
        if name in parts:
            changed[parts[name]] = False
        assert not changed.any(), name
    made.round()


def _moments(made: Trainer) -> dict[str, Tensor]:
    state = made.optimisers["agents"].state
    return {name: state[value]["exp_avg"].clone() for name, value in made.networks["utility"].named_parameters()}


def test_what_an_agents_parts_cover():
    """Without sharing they are everything, in equal pieces that do not overlap; with it one column each."""
    for share in (True, False):
        network = utility(trainer("reset", rounds=0, network__share=share))
        covered = {name: torch.zeros_like(value, dtype=torch.int64) for name, value in network.named_parameters()}
        for agent in range(3):
            for name, index in own_parts(network, agent).items():
                covered[name][index] += 1
        if share:
            ids = covered["first.linear.weight"][:, -3:]
            assert bool((ids == 1).all())
            assert sum(int(count.sum()) for count in covered.values()) == ids.numel()
        else:
            assert all(bool((count == 1).all()) for count in covered.values())


def test_the_boost_falls_linearly_and_concerns_one_agent():
    boost = Treatment("reset", agent=1, since=1000, until=2000)
    assert torch.as_tensor(exploring([boost], 0.1, 1000, 3)).tolist() == pytest.approx([0.1, BOOST, 0.1])
    assert torch.as_tensor(exploring([boost], 0.1, 1500, 3)).tolist() == pytest.approx([0.1, 0.3, 0.1])
    assert exploring([boost], 0.1, 2000, 3) == 0.1
    assert exploring([], 0.1, 0, 3) == 0.1
    assert torch.as_tensor(exploring([boost], 0.9, 1000, 3)).tolist() == pytest.approx([0.9] * 3)  # never less than everybody
    assert torch.as_tensor(exploring([boost], 0.1, 1500, 3, 0.9)).tolist() == pytest.approx([0.1, 0.5, 0.1])


@pytest.mark.parametrize("start", [0.0, BOOST, 0.75, 1.0])
def test_a_boosted_agent_explores_as_often_as_it_should_at_first_as_a_new_one_does(start):
    made = trainer(
        "reset", replay__num_envs=64, replay__minibatch_size=2048, exploration__start=start, exploration__end=0.0,
        exploration__fraction=0.0, steps=20480,
    )  # fmt: skip
    treat(made, 1, 2)
    made.round()
    batch = made.replay.newest()
    assert bool((batch.behaviour[..., [0, 2]] == 1).all())
    first = max(start, BOOST)
    assert first_boost(made.config) == first
    uniform = first * made.treatments[0].left(made.counters.env_steps - made.config.replay.batch)
    assert float(batch.behaviour[..., 1].min()) == pytest.approx(uniform / 6, abs=0.2 * uniform)


def foraging_at_food() -> tuple[Foraging, Any, Any, Clock]:
    """Copies of a board, after random play, in some of which a player stands beside food it can lift."""
    env, seeds = Foraging(5, 5, 3, 1), torch.arange(64)
    state, view = env.reset(seeds)
    clock = Clock.start(seeds)
    for _ in range(6):
        state, step, view = env.step(state, random_policy(view, clock))
        clock = clock.tick(step.terminated | step.truncated)
    return env, state, view, clock


def test_diligence_is_1_where_an_agents_own_action_alone_takes_the_food():
    env, state, view, clock = foraging_at_food()
    loads = torch.where(view.available[..., 5], 5, 0)  # whoever may load does
    after, _ = env.advance(state.task, loads, state.clock)
    gone = (after.foods != state.task.foods).flatten(1).any(-1)
    assert gone.any()
    bonus = torch.stack([diligence(env, state, view, loads, clock, agent) for agent in range(3)], 1)
    assert not bonus[~gone].any()
    assert not bonus[loads == 0].any()
    alone = gone & ((loads == 5).sum(-1) == 1)
    assert bool((bonus.sum(-1)[alone] == 1).all())
    assert alone.any()


def test_the_treated_agents_pay_by_hand():
    env, state, view, clock = foraging_at_food()
    loads = torch.where(view.available[..., 5], 5, 0)
    reward = env.step(state, loads)[1].reward

    def own(*_: Any) -> Tensor:
        return torch.full((64, 3), 7.0)

    paid = TreatedPay(own, (1,), ((2, WEIGHT),))(env, state, view, loads, reward, clock)
    assert torch.equal(paid[:, 0], reward)
    assert bool((paid[:, 1] == 7).all())
    torch.testing.assert_close(paid[:, 2], reward + WEIGHT * diligence(env, state, view, loads, clock, 2))


def test_before_any_treatment_independent_learners_are_paid_the_teams_reward():
    made = trainer("counterfactual")
    batch = made.replay.newest()
    assert torch.equal(batch.agent_reward, batch.reward.unsqueeze(-1).expand_as(batch.agent_reward))


def test_only_the_treated_agent_is_paid_its_difference_reward():
    made = trainer("counterfactual", rounds=0, replay__num_envs=64, replay__minibatch_size=2048)
    treat(made, 1, 2)
    made.round()
    batch = made.replay.newest()
    assert bool(batch.reward.any())
    assert torch.equal(batch.agent_reward[..., [0, 2]], batch.reward.unsqueeze(-1).expand_as(batch.agent_reward)[..., [0, 2]])
    idle = (batch.action[..., 1] == 0) & (batch.reward > 0)
    assert idle.any()
    assert not batch.agent_reward[..., 1][idle].any()  # teammates' food is none of its business


def test_a_value_of_the_team_learns_the_bonus_and_reports_the_teams_own_return():
    plain, made = (trainer("diligence", rounds=0, algo="vdn", replay__num_envs=64, replay__minibatch_size=2048) for _ in range(2))
    treat(made, 1, 2)
    for each in (plain, made):
        each.round()
    more = made.replay.newest().reward - plain.replay.newest().reward
    assert bool(((more - WEIGHT * made.treatments[0].left(0)).abs() < 1e-6)[more > 0].all())
    assert bool((more > 0).any() and (more >= 0).all())
    assert made.sums.get("returns") == plain.sums.get("returns")


@pytest.mark.parametrize(
    "cure, options, sentence",
    [
        ("resett", {}, 'no cure "resett". Did you mean reset?'),
        ("counterfactual", {"algo": "vdn"}, "vdn learns one value of the whole team: use --algo iql"),
        ("counterfactual", {"agent_reward": "difference"}, "every agent is paid for itself already"),
        ("counterfactual", {"task": "mpe/simple_spread"}, "no agent's action changed the team reward of its own step"),
        ("diligence", {"task": "native/spread"}, "is not known"),
        ("diligence", {"algo": "coma"}, "it is for iql, vdn and qmix"),
        ("reset", {"algo": "coma"}, "coma explores by its own policies"),
        ("transplant", {"task": "mpe/simple_speaker_listener"}, "no policy fits in another's place"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pygame.*")
def test_a_cure_that_a_run_cannot_have_is_refused_before_anything_is_written(cure, options, sentence, tmp_path):
    settings = {key: value for key, value in (SMALL | options | {"watch.cure": cure}).items() if key not in ("task", "algo")}
    task, algo = options.get("task", SMALL["task"]), options.get("algo", "iql")
    with pytest.raises(ConfigError, match=sentence.replace("?", r"\?").replace(".", r"\.")):
        train(task, algo=algo, options=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_default_cure_is_one():
    assert Config(task="any").watch.cure in CURES


def intervene(out: Path, **more: Any) -> Path:
    """Own networks on plate and door, where the dummy is found before long; it cannot be cured, but it is treated."""
    options: dict[str, Any] = {
        "network.share": False, "network.hidden": 16, "replay.rollout_steps": 32, "replay.num_envs": 16, "replay.minibatch_size": 128,
        "evaluation.every": 2048, "evaluation.episodes": 16, "evaluation.final_episodes": 8, "checkpoint.every": 2048, "compile": "off",
        "learner.lr": 2e-3, "exploration.fraction": 0.2, "watch_credit": "evaluations", "watch.overhead": 1.0,
        "watch.on_lazy": "intervene", "members": "guard=trained,walker=trained",
    }  # fmt: skip
    return train("native/plate-and-door", algo="iql", steps=8192, seed=1, options=options, out=out, **more).folder


def untimed(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if not name.startswith("time.")} for record in read_metrics(run)]


def test_a_lazy_agent_is_treated_left_alone_while_it_lasts_and_judged_again_and_a_stopped_run_goes_on_alike(tmp_path):
    run = intervene(
        tmp_path / "whole",
    )
    told = [(record["event"], record["agent"], record["env_steps"]) for record in untimed(run) if record["event"] in ("lazy", "cure")]
    assert [event for event, *_ in told[:2]] == ["lazy", "cure"]
    assert {agent for _, agent, _ in told} == {"dummy"}
    meta = read(list_checkpoints(run / "checkpoints")[-1], ("networks",)).meta
    (treatment,) = (Treatment(**each) for each in meta["trainer"]["treatments"])
    first = told[0][2]
    assert (treatment.since, treatment.cure) == (first, "reset")
    judged = [env_steps for event, _, env_steps in told[2:]]
    assert all(env_steps >= treatment.until for env_steps in judged)
    polls = iter([None] * 7 + [15] + [None] * 50)
    with pytest.raises(Interrupted):
        intervene(tmp_path / "broken", stop_signal=lambda: next(polls))
    resume(str(tmp_path / "broken"))
    assert untimed(tmp_path / "broken") == untimed(run)
