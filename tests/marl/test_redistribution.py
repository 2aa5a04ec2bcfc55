"""Reward redistribution in training: exact sums, nothing from episodes that are not over, the same numbers after a resume."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.envs.base import TeamSpec
from teamcredit.envs.foraging import Foraging
from teamcredit.envs.spread import Spread
from teamcredit.marl.capture import EAGER, LEARNING, decide
from teamcredit.marl.checkpoint import list_checkpoints, read
from teamcredit.marl.config import Config, LearnerConfig, NetworkConfig, RedistributionConfig, ReplayConfig
from teamcredit.marl.errors import ConfigError, Interrupted
from teamcredit.marl.folder import read_metrics
from teamcredit.marl.redistribution import RAW, Redistribution, whole_episodes
from teamcredit.marl.return_learner import ReturnLearner, Stored
from teamcredit.marl.return_models import EpisodeBatch, PrefixModel, make_return_model
from teamcredit.marl.run import resume, train
from teamcredit.marl.seeds import refuse_together
from teamcredit.marl.trainer import Trainer

SMALL = {"network.hidden": 16, "redistribution.hidden": 16, "redistribution.minibatch_size": 8, "redistribution.subset": 4}
SPLIT = SMALL | {
    "env.episode_limit": 5, "replay.rollout_steps": 10, "replay.num_envs": 4, "replay.minibatch_size": 20,
    "evaluation.every": 400,  "evaluation.episodes": 2, "evaluation.final_episodes": 2, "delay_reward": True, "compile": "off",
}  # fmt: skip
UNIFORM = SPLIT | {
    "env.episode_limit": 9, "replay.rollout_steps": 4, "replay.sampling": "uniform", "replay.capacity": 160, "replay.minibatch_size": 24,
    "replay.window": 3, "learner.td_lambda": 0.5, "learner.standardise_rewards": True,
}  # fmt: skip
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "rrd, split": ("native/spread", "vdn", SPLIT | {"reward_redistribution": "rrd"}),
    "rudder, split, coma": ("native/spread", "coma", SPLIT | {"reward_redistribution": "rudder"}),
    "rrd, uniform": ("native/foraging-5x5-2p-1f", "qmix", UNIFORM | {"reward_redistribution": "rrd"}),
    "rudder, uniform, gru": ("native/foraging-5x5-2p-1f", "vdn", UNIFORM | {"reward_redistribution": "rudder", "network.kind": "gru"}),
}
every_run = pytest.mark.parametrize("name", list(RUNS))


def start(name: str, out: Path, *, steps: int = 320, seed: int = 1, **more: Any):
    task, algo, options = RUNS[name]
    return train(task, algo=algo, steps=steps, seed=seed, options=options, out=out, **more)


def spread_config(kind: str = "rrd", **changes: Any) -> Config:
    config = Config(
        task="native/spread",
        algo="vdn",
        reward_redistribution=kind,  # type: ignore[arg-type]
        delay_reward=True,
        compile="off",
        network=NetworkConfig(hidden=16),
        redistribution=RedistributionConfig(hidden=16, minibatch_size=8, subset=4),
        replay=ReplayConfig(rollout_steps=10, num_envs=4, minibatch_size=20),
    )
    return replace(config, **changes)


def foraging_config(**changes: Any) -> Config:
    """Episodes of unequal length, uniform replay."""
    replay = ReplayConfig(sampling="uniform", rollout_steps=4, num_envs=4, minibatch_size=24, capacity=160)
    return spread_config(replay=replay, **changes)


def stored(trainer: Trainer) -> dict[str, torch.Tensor]:
    """What the replay holds, the oldest step first, as (time, copy)."""
    replay = trainer.replay
    slots = (torch.arange(replay.count) + replay.position - replay.count) % replay.slots
    steps = replay.layout.unpack(replay.floats[slots], replay.raw[slots])
    names = ("reward", "valid", "episode_start", "terminated", "truncated")
    return {name: getattr(steps, name) for name in names} | {"raw": steps.extras[RAW]}


# --- which episodes are whole ---


def test_whole_episodes_by_hand():
    # copy 0: |0 1 2| 3 4|   copy 1: .. 0 | 1 2 3 | 4 (still running)
    start = torch.tensor([[1, 0], [0, 1], [0, 0], [1, 0], [0, 1]], dtype=torch.bool)
    done = torch.tensor([[0, 1], [0, 0], [1, 0], [0, 1], [1, 0]], dtype=torch.bool)
    found, cut = whole_episodes(start, done)
    assert list(zip(found.first.tolist(), found.copy.tolist(), found.length.tolist(), strict=True)) == [(0, 0, 3), (1, 1, 3), (3, 0, 2)]
    assert cut.tolist() == [0]
    steps, valid = found.steps()
    assert steps.T.tolist() == [[0, 1, 2], [1, 2, 3], [3, 4, 4]]
    assert valid.T.tolist() == [[True, True, True], [True, True, True], [True, True, False]]


# --- rewards in the replay ---


@pytest.mark.parametrize("kind", ["rrd", "rudder"])
@pytest.mark.parametrize("delayed", [True, False])
def test_every_episodes_rewards_in_a_split_batch_add_up_to_its_return(kind, delayed):
    config = spread_config(kind)
    env = Spread(episode_limit=5)
    if delayed:
        from teamcredit.envs.delayed_reward import delay_reward

        env = delay_reward(env)
    trainer = Trainer(config, env)
    for _ in range(4):
        trainer.round()
        held = stored(trainer)
        assert bool(held["valid"].all())
        learned, paid = (held[name].double().unflatten(0, (-1, 5)).sum(1) for name in ("reward", "raw"))
        torch.testing.assert_close(learned, paid, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(held["reward"], held["raw"], atol=1e-2)
    evenly = held["raw"].unflatten(0, (-1, 5)).mean(1).repeat_interleave(5, 0)
    assert not torch.allclose(held["reward"], evenly, atol=1e-2)  # a model has learned something


@pytest.mark.parametrize("kind", ["rrd", "rudder"])
def test_in_a_uniform_replay_steps_count_once_their_episode_is_over_and_its_rewards_add_up(kind):
    trainer = Trainer(foraging_config(reward_redistribution=kind), Foraging(5, 5, 2, 1, episode_limit=9))
    ended = 0
    for _ in range(60):
        trainer.round()
        held = stored(trainer)
        done = held["terminated"] | held["truncated"]
        over = done.flip(0).cumsum(0).flip(0) > 0  # an end lies ahead
        assert torch.equal(held["valid"], over)
        assert torch.equal(held["reward"][~over], held["raw"][~over])
        found, _ = whole_episodes(held["episode_start"], done)
        if not len(found):
            continue
        steps, valid = found.steps()
        learned, paid = (held[name].double()[steps, found.copy].masked_fill(~valid, 0.0).sum(0) for name in ("reward", "raw"))
        torch.testing.assert_close(learned, paid, rtol=1e-5, atol=1e-5)
        ended += int(done[-4:].sum())
    assert ended > 60
    assert ended == trainer.counters.episodes


def test_a_split_batch_of_unequal_episodes_is_refused():
    """What its ends cut would be lost, and of long episodes, the failed ones, that is nearly all."""
    config = spread_config(replay=ReplayConfig(rollout_steps=12, num_envs=64, minibatch_size=96))
    trainer = Trainer(config, Foraging(5, 5, 1, 1, episode_limit=12))
    with pytest.raises(ConfigError, match=r"of 12 env steps\. A split batch keeps only what lies in it whole"):
        trainer.round()


def test_before_anything_is_learned_a_return_is_spread_evenly():
    trainer = Trainer(spread_config(redistribution=RedistributionConfig(passes=0.01)), Spread(episode_limit=5))
    trainer.round()
    held = stored(trainer)
    evenly = held["raw"].unflatten(0, (-1, 5)).mean(1).repeat_interleave(5, 0)
    torch.testing.assert_close(held["reward"], evenly, rtol=1e-5, atol=1e-5)


def test_rewards_of_older_episodes_are_renewed_with_the_newest_model():
    trainer = Trainer(foraging_config(), Foraging(5, 5, 2, 1, episode_limit=9))
    for _ in range(20):
        trainer.round()
    before = trainer.replay.floats.clone()
    trainer.redistribution.since_renewal = 1000  # type: ignore[union-attr]
    trainer.round()
    changed = (trainer.replay.floats != before)[..., trainer.replay.layout.column("reward")]
    assert int(changed.sum()) > 80  # of 160; 16 are new


def test_what_an_unfinished_episode_was_paid_moves_no_weight():
    def weights(shift: float) -> list[torch.Tensor]:
        trainer = Trainer(foraging_config(), Foraging(5, 5, 2, 1, episode_limit=9))
        for _ in range(8):
            trainer.round()
        replay = trainer.replay
        column, valid = replay.layout.column("reward"), replay.layout.column("valid")
        waiting = replay.floats[..., valid] == 0
        assert bool(waiting.any())
        replay.floats[..., column] += shift * waiting
        for _ in range(5):
            trainer._iterate(replay.uniform(trainer.generator), {}, _context())
        return [value.clone() for value in trainer.networks.parameters()]

    assert all(torch.equal(one, two) for one, two in zip(weights(0.0), weights(1e6), strict=True))


def _context():
    from teamcredit.marl.learners.base import Context

    return Context()


def test_returns_that_are_reported_are_the_tasks_own(tmp_path):
    lines = {}
    for kind in ("none", "rrd"):
        run = train("native/spread", algo="vdn", steps=40, seed=2, options=SPLIT | {"reward_redistribution": kind}, out=tmp_path / kind)
        lines[kind] = read_metrics(run.folder)
    assert lines["none"][0]["return"] == lines["rrd"][0]["return"]  # the first round is collected with the same weights
    keys = {"redistribution.loss", "redistribution.residual", "redistribution.waiting"}
    assert lines["rrd"][0].keys() - lines["none"][0].keys() == keys
    assert lines["rrd"][0]["redistribution.waiting"] == 0


def test_all_that_surrounds_redistribution_leaves_a_runs_numbers_alone(monkeypatch):
    """With the task's own rewards put back in, the run is the run without redistribution, bit for bit."""

    def put_back(self, replay, stretch, sums):
        steps, valid = stretch.steps()
        slots = (steps + replay.position - replay.count) % replay.slots
        rows = (slots * replay.num_envs + stretch.copy)[valid]
        ring = replay.floats.view(-1, replay.layout.float_width)
        ring[rows, replay.layout.column("valid")] = 1.0
        return ring[rows, replay.layout.column("reward")]

    monkeypatch.setattr(Redistribution, "_put", put_back)
    plain, other = (Trainer(spread_config(kind), Spread(episode_limit=5)) for kind in ("none", "rudder"))
    assert plain.redistribution is None
    for _ in range(5):
        plain.round()
        other.round()
    assert all(torch.equal(one, two) for one, two in zip(plain.networks.parameters(), other.networks.parameters(), strict=True))
    ours = other.metrics()
    assert all(ours[name] == value for name, value in plain.metrics().items())


# --- runs ---


def untimed(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if not name.startswith("time.")} for record in read_metrics(folder)]


def assert_same_run(first: Path, second: Path) -> None:
    assert untimed(first) == untimed(second)
    assert json.loads((first / "result.json").read_text()) == json.loads((second / "result.json").read_text())
    ends = [read(list_checkpoints(folder / "checkpoints")[-1]) for folder in (first, second)]
    assert ends[0].meta["trainer"]["redistribution"] == ends[1].meta["trainer"]["redistribution"]
    for group in ("networks", "training", "replay"):
        assert ends[0].groups[group].keys() == ends[1].groups[group].keys()
        assert all(torch.equal(value, ends[1].groups[group][name]) for name, value in ends[0].groups[group].items()), group
    assert any(name.startswith("redistribution.model.") for name in ends[0].groups["training"])
    assert "redistribution.state" in ends[0].groups["replay"]


@every_run
def test_the_same_seed_gives_the_same_run_also_when_stopped_and_resumed(name, tmp_path):
    start(name, tmp_path / "whole")
    polls = iter([None] * 4 + [15])
    with pytest.raises(Interrupted):
        start(name, tmp_path / "run", stop_signal=lambda: next(polls))
    resume(str(tmp_path / "run"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_another_seed_gives_another_model():
    spec = Spread().spec
    one, same, other = (make_return_model("rudder", spec, hidden=8, seed=seed).first.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# --- models ---


SPEC = TeamSpec("six steps", agents=("a", "b", "c"), num_actions=3, obs_dim=1, state_dim=6, episode_limit=6)


def episodes_of(number: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Six steps that the state tells apart, uniform actions of three agents."""
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(6).unsqueeze(1).repeat(1, number, 1), torch.randint(3, (6, number, 3), generator=generator)


def taught(kind: str, state: torch.Tensor, action: torch.Tensor, returns: torch.Tensor, *, passes: float = 30.0) -> ReturnLearner:
    learner = ReturnLearner(kind, RedistributionConfig(hidden=32, passes=passes, subset=4, lr=5e-3), SPEC, seed=0)
    learner.take_in([Stored(state[:, row], action[:, row], float(returns[row])) for row in range(state.shape[1])])
    learner.learn()
    return learner


def batch(state: torch.Tensor, action: torch.Tensor, returns: torch.Tensor) -> EpisodeBatch:
    return EpisodeBatch(state, action, torch.ones(state.shape[:2], dtype=torch.bool), returns)


@pytest.mark.parametrize("kind", ["rrd", "rudder"])
def test_a_model_finds_the_steps_and_the_agent_that_earned_an_additive_return(kind):
    def truth(action: torch.Tensor) -> torch.Tensor:  # agent b alone, in step 1 (+4) and step 4 (-3)
        pay = torch.tensor([0.0, 4.0, 0.0, 0.0, -3.0, 0.0], dtype=torch.float64).unsqueeze(1)
        return pay * ((action[..., 1] == 2).double() - 1 / 3)

    state, action = episodes_of(400)
    model = taught(kind, state, action, truth(action).sum(0)).model
    state, action = episodes_of(200, seed=1)
    episodes = batch(state, action, truth(action).sum(0))
    with torch.no_grad():
        rewards, replaced = model.rewards(episodes), model.replaced(episodes)
    pairs = torch.stack([rewards.flatten(), truth(action).flatten()])
    assert torch.corrcoef(pairs)[0, 1] > 0.95
    torch.testing.assert_close(replaced.gather(-1, action.unsqueeze(-1)).squeeze(-1), rewards.unsqueeze(-1).expand(-1, -1, 3))
    effect = (rewards.unsqueeze(-1) - replaced.mean(-1)).abs().mean(1)  # of the action taken against a random one: (step, agent)
    assert effect[[1, 4], 1].min() > 3 * effect.index_fill(0, torch.tensor([1, 4]), 0.0).max()
    assert effect[[1, 4], 1].min() > 3 * effect[[1, 4]][:, [0, 2]].max()


def test_rudder_pays_a_door_only_where_the_key_was_taken():
    def truth(action: torch.Tensor) -> torch.Tensor:
        return 6.0 * ((action[1, :, 0] == 1) & (action[3, :, 2] >= 1)).double()

    state, action = episodes_of(400)
    model = taught("rudder", state, action, truth(action), passes=40.0).model
    state, action = episodes_of(300, seed=1)
    with torch.no_grad():
        rewards = model.rewards(batch(state, action, truth(action)))
    key, door = action[1, :, 0] == 1, action[3, :, 2] >= 1
    opened = [float(rewards[3, having & door].mean() - rewards[3, having & ~door].mean()) for having in (key, ~key)]
    assert opened[0] > 4.5  # 6 by the truth
    assert abs(opened[1]) < 1  # 0


def test_a_prefix_is_judged_without_what_follows_it():
    state, action = episodes_of(3)
    model = make_return_model("rudder", SPEC, hidden=8, seed=0)
    assert isinstance(model, PrefixModel)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    later = action.clone()
    later[3:] = (later[3:] + 1) % 3
    returns = torch.zeros(3, dtype=torch.float64)
    one, two = model.foreseen(batch(state, action, returns)), model.foreseen(batch(state, later, returns))
    assert torch.equal(one[:3], two[:3])
    assert not torch.equal(one[3:], two[3:])


@pytest.mark.parametrize("kind", ["rrd", "rudder"])
def test_new_units_change_no_prediction(kind):
    state, action = episodes_of(50)
    returns = (action[2, :, 0] == 1).double()
    model = taught(kind, state, action, returns).model
    episodes = batch(state, action, returns)
    predict = model.foreseen if isinstance(model, PrefixModel) else model.rewards
    with torch.no_grad():
        before = predict(episodes)
        model.set_units(7 * returns - 100, torch.full((50,), 4))
        after = predict(episodes)
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)
    assert float(model.scale) == pytest.approx(7 * float(returns.std(correction=0)))


def test_nothing_is_learned_while_all_returns_are_alike():
    learner = taught("rrd", *episodes_of(20), torch.full((20,), 3.0))
    assert not bool(learner.model.head.weight.any())


# --- what is refused, and what goes without a compiler ---


def test_a_split_batch_of_broken_episodes_is_refused_with_a_number_that_works():
    config = spread_config(replay=ReplayConfig(rollout_steps=16, num_envs=8, minibatch_size=64))
    with pytest.raises(ConfigError, match="rollout_steps 16 is no multiple of the 25 env steps") as caught:
        Trainer(config, Spread())
    assert caught.value.remedy == "--rollout-steps 200, or --sampling uniform"  # the first multiple of 25 that minibatches of 64 divide
    Trainer(replace(config, replay=replace(config.replay, rollout_steps=200)), Spread())


def test_a_split_batch_of_a_task_without_a_limit_is_refused():
    env = Spread()
    env.spec = replace(env.spec, episode_limit=None, truncates_at_limit=False)
    with pytest.raises(ConfigError, match="does not say how long its episodes can be") as caught:
        Trainer(spread_config(), env)
    assert "--sampling uniform" in caught.value.remedy


def test_a_replay_too_small_for_an_episode_is_refused_before_or_when_it_shows():
    small = ReplayConfig(sampling="uniform", rollout_steps=4, num_envs=4, minibatch_size=24, capacity=96)
    with pytest.raises(ConfigError, match="capacity 96 remembers 24 steps of each copy") as caught:
        Trainer(spread_config(replay=small), Spread())
    assert caught.value.remedy == "--capacity 116 or more"
    env = Spread()
    env.spec = replace(env.spec, episode_limit=None, truncates_at_limit=False)
    trainer = Trainer(spread_config(replay=small), env)
    for _ in range(6):
        trainer.round()
    with pytest.raises(ConfigError, match="longer than the replay remembers"):
        trainer.round()


def test_episodes_that_would_not_fit_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr("teamcredit.marl.redistribution.machine_memory", lambda: 4_000_000)
    with pytest.raises(ConfigError, match="more than a quarter of the memory") as caught:
        Trainer(spread_config(), Spread(episode_limit=5))
    assert caught.value.remedy == f"--redistribution.episodes {1_000_000 // (5 * 4 * (54 + 6))}"


def test_a_captured_loop_collects_in_python_and_says_why(monkeypatch):
    monkeypatch.setattr("teamcredit.marl.capture.find_compiler", lambda: "g++")
    choice = decide(spread_config(compile="on"), Spread())
    assert choice.engine == LEARNING
    assert "redistributed between collecting and learning" in choice.reason
    assert decide(spread_config(), Spread()).engine == EAGER


def test_stacked_seeds_are_refused():
    with pytest.raises(ConfigError, match="model of the return"):
        refuse_together(spread_config(), Spread())


@pytest.mark.parametrize("name, value", [("hidden", 0), ("passes", 0.0), ("lr", -1.0), ("subset", 0)])
def test_bad_options_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"redistribution\.{name} {value} must be"):
        RedistributionConfig(**{name: value})


@pytest.mark.slow
def test_captured_learning_gives_the_plain_loops_numbers():
    trainers = [
        Trainer(spread_config(compile=compile, learner=LearnerConfig(target="none")), Spread(episode_limit=5)) for compile in ("off", "on")
    ]
    for trainer in trainers:
        for _ in range(5):
            trainer.round()
        trainer.settle()
    assert trainers[1].choice.engine == LEARNING
    for one, two in zip(*(trainer.networks.parameters() for trainer in trainers), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
