"""Utilities of the views reached, from the window's own unroll: the same as asking the network about every one of them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teamcredit.envs.base import TeamSpec
from teamcredit.envs.check import broken_rules
from teamcredit.envs.randomness import EXPLORE, choice, copy_seeds, split
from teamcredit.envs.registry import NATIVE, make
from teamcredit.marl.agents import UtilityNetwork
from teamcredit.marl.config import Config, LearnerConfig, NetworkConfig, ReplayConfig
from teamcredit.marl.data import Minibatch, Rollout
from teamcredit.marl.learners import value
from teamcredit.marl.learners.windows import after_burn_in, follow, most_truncations, next_utilities
from teamcredit.marl.memory import example_rollout
from teamcredit.marl.trainer import Trainer
from torch import Tensor

AGENTS, OBS, ACTIONS, LIMIT = 2, 5, 3, 4
SPEC = TeamSpec("played", agents=("a", "b"), num_actions=ACTIONS, obs_dim=OBS, state_dim=1, episode_limit=LIMIT, truncates_at_limit=True)


def network(kind: str) -> UtilityNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UtilityNetwork(
            NetworkConfig(kind=kind, hidden=8),  # pyright: ignore[reportArgumentType]
            num_agents=AGENTS,
            obs_dim=OBS,
            num_actions=ACTIONS,
        )


def played(time: int, begun: int, ends_early: Tensor) -> Rollout:
    """Copies that are `begun` steps into an episode; they terminate where `ends_early` (time, env), and are truncated after LIMIT steps."""
    copies = ends_early.shape[1]
    generator = torch.Generator().manual_seed(1)
    obs, step, start = (
        torch.randn(copies, AGENTS, OBS, generator=generator),
        torch.full((copies,), begun),
        torch.full((copies,), begun == 0),
    )
    rows: dict[str, list[Tensor]] = {name: [] for name in ("obs", "next_obs", "terminated", "truncated", "episode_start")}
    for early in ends_early:
        reached, fresh = (torch.randn(copies, AGENTS, OBS, generator=generator) for _ in range(2))
        step = step + 1
        truncated = (step >= LIMIT) & ~early
        values = {"obs": obs, "next_obs": reached, "terminated": early, "truncated": truncated, "episode_start": start}
        for name, seen in values.items():
            rows[name].append(seen)
        start = early | truncated
        obs, step = torch.where(start[:, None, None], fresh, reached), torch.where(start, 0, step)
    example = example_rollout(SPEC)
    shape = (time, copies)
    rest: dict[str, Any] = {
        name: getattr(example, name)[:1, :1].expand(*shape, *getattr(example, name).shape[2:])
        for name in example.__dataclass_fields__
        if name not in rows and name != "extras"
    }
    return Rollout(**{name: torch.stack(seen) for name, seen in rows.items()}, **rest)


def compare(kind: str, steps: Rollout, *, burn_in: int = 0) -> None:
    """`follow` against the network asked about every view, at every step that can bootstrap."""
    utility, minibatch = network(kind), Minibatch(steps, burn_in=burn_in)
    q, memories = utility.unroll(steps.obs, steps.episode_start, burn_in=burn_in)
    learned = after_burn_in(minibatch)
    last_views = most_truncations(SPEC, learned.num_steps - 1)
    assert last_views is not None
    assert int(learned.truncated[:-1].sum(0).max()) <= last_views
    followed, asked = follow(utility, learned, q, memories, last_views), next_utilities(utility, minibatch, memories)
    bootstraps = ~learned.terminated
    torch.testing.assert_close(followed[bootstraps], asked[bootstraps], rtol=0, atol=1e-6)


KINDS = pytest.mark.parametrize("kind", ["mlp", "gru"])


@KINDS
@pytest.mark.parametrize(
    "time, begun",
    [(3, 0), (6, 0), (9, 2), (4, 0), (5, 3), (13, 1)],
    ids=["none", "one inside", "two inside", "at the end", "at once", "three inside"],
)
def test_following_the_window_gives_what_asking_again_gives(kind: str, time: int, begun: int):
    compare(kind, played(time, begun, torch.zeros(time, 3, dtype=torch.bool)))


@KINDS
@given(st.integers(2, 14), st.integers(0, LIMIT - 1), st.integers(0, 3), st.integers(0, 2**20))
def test_also_with_episodes_that_end_early_and_with_a_burn_in(kind: str, time: int, begun: int, burn_in: int, seed: int):
    time += burn_in
    ends_early = torch.rand(time, 4, generator=torch.Generator().manual_seed(seed)) < 0.3
    compare(kind, played(time, begun, ends_early), burn_in=burn_in)


def test_the_most_truncations_by_hand():
    assert [most_truncations(SPEC, steps) for steps in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]
    assert most_truncations(replace(SPEC, truncates_at_limit=False), 5) is None
    assert most_truncations(replace(SPEC, episode_limit=None), 5) is None


TASKS = [*NATIVE, "native/spread-1", "native/foraging-5x5-2p-1f", "native/rware-tiny-2ag-hard"]
LIMITS = {"native/plate-and-door": "horizon"}  # what it calls its limit
PROMISING = [task for task in TASKS if make(task).spec.truncates_at_limit]


def test_some_tasks_promise_to_truncate_at_their_limit_only():
    assert "native/spread" in PROMISING


@pytest.mark.parametrize("task", PROMISING)
def test_a_task_that_promises_it_truncates_at_its_limit_and_never_before(task: str):
    env = make(task, **{LIMITS.get(task, "episode_limit"): 7})
    spec, copies, steps = env.spec, 64, 60
    state, view = env.reset(copy_seeds(3, copies))
    clock, age, cut = state.clock, torch.zeros(copies, dtype=torch.int64), []
    for _ in range(steps):
        action = choice(split(clock.key(EXPLORE), spec.num_agents), view.available)
        state, step, view = env.step(state, action)
        clock, age = state.clock, age + 1
        assert (age[step.truncated] == spec.episode_limit).all()
        assert (age <= spec.episode_limit).all()
        cut.append(step.truncated)
        age = age.masked_fill(step.terminated | step.truncated, 0)
    whole = torch.stack(cut).to(torch.int64).cumsum(0)
    assert whole[-1].sum() > 0
    for window in (1, 2, 6, 7, 8, 15, 30):
        inside = whole[window:] - whole[:-window]
        most = most_truncations(spec, window)
        assert most is not None
        assert int(inside.max()) <= most


def test_the_contract_names_a_broken_promise():
    env = make("native/spread", episode_limit=6)
    env.spec = replace(env.spec, episode_limit=7)
    (broken,) = {rule.sentence for rule in broken_rules(env) if rule.rule == "truncates-at-limit"}
    assert "the spec says only after 7 env steps" in broken


def trainer(*, promise: bool) -> Trainer:
    """Recurrent agents on windows of 8 of episodes of 6."""
    env = make("native/spread", episode_limit=6)
    env.spec = replace(env.spec, truncates_at_limit=promise)
    config = Config(
        "spread",
        algo="vdn",
        steps=10_000,
        compile="off",
        network=NetworkConfig(kind="gru", hidden=8),
        learner=LearnerConfig(td_lambda=0.5),
        replay=ReplayConfig(sampling="uniform", rollout_steps=16, num_envs=4, minibatch_size=64, window=8, burn_in=2),
    )
    return Trainer(config, env)


def test_a_task_that_promises_nothing_is_asked_about_every_view(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any) -> Tensor:
        raise AssertionError("followed without a promise")

    monkeypatch.setattr(value, "follow", refuse)
    without, promised = trainer(promise=False), trainer(promise=True)
    without.round()
    with pytest.raises(AssertionError, match="followed"):
        promised.round()


def test_the_promise_changes_no_number_of_a_run():
    one, other = trainer(promise=True), trainer(promise=False)
    for _ in range(3):
        one.round()
        other.round()
    for name, weight in one.networks.state_dict().items():
        torch.testing.assert_close(weight, other.networks.state_dict()[name], rtol=0, atol=1e-5)
