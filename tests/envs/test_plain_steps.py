"""Usual steps are read at once, unusual ones by the rules one by one, and nobody can tell which it was."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from pettingzoo import ParallelEnv
from teamcredit.envs import plain
from teamcredit.envs.errors import ContractBroken
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import copy_seeds

torch.set_num_threads(1)

ODDITIES: dict[str, Callable[[Any, tuple], Any]] = {}
"""What an environment may do to the tuple of a usual step, by name."""


def oddity(change: Callable[[Any, tuple], Any]) -> Callable[[Any, tuple], Any]:
    ODDITIES[change.__name__] = change
    return change


@oddity
def as_it_is(env, result):
    return result


@oddity
def dicts_in_another_order(env, result):
    return tuple(dict(reversed(list(part.items()))) for part in result)


@oddity
def dicts_with_defaults_and_numpy_numbers(env, result):
    obs, rewards, ended, cut, infos = result
    rewards = defaultdict(int, {agent: np.float64(reward) for agent, reward in rewards.items()})
    return obs, rewards, {agent: np.bool_(flag) for agent, flag in ended.items()}, {agent: int(flag) for agent, flag in cut.items()}, infos


@oddity
def lists_and_doubles(env, result):
    obs = {agent: value.tolist() if agent == "a" else value.astype(np.float64) for agent, value in result[0].items()}
    return obs, *result[1:]


@oddity
def living_agents_in_another_order(env, result):
    env.agents = env.agents[::-1]
    return result


@oddity
def masks(env, result):
    masks = {agent: {"action_mask": np.array([1, 0, 1, 0], np.int8)} for agent in result[0]}
    return *result[:4], masks


@oddity
def mask_for_one(env, result):
    return *result[:4], {"b": {"action_mask": np.array([0, 1, 0, 0], bool)}}


@oddity
def empty_mask(env, result):
    return *result[:4], {agent: {"action_mask": np.zeros(4, np.int8)} for agent in result[0]}


@oddity
def no_infos(env, result):
    return *result[:4], {}


@oddity
def a_death(env, result):
    env.agents = [agent for agent in env.agents if agent != "b"]
    return *result[:2], {**result[2], "b": True} if "b" in result[0] else result[2], *result[3:]


@oddity
def an_end(env, result):
    env.agents = []
    return *result[:2], dict.fromkeys(result[0], True), *result[3:]


@oddity
def a_cut(env, result):
    env.agents = []
    return *result[:3], dict.fromkeys(result[0], True), result[4]


@oddity
def unequal_rewards(env, result):
    return result[0], {agent: 1.0 + (agent == "a") for agent in result[1]}, *result[2:]


@oddity
def one_unpaid(env, result):
    return result[0], {agent: reward for agent, reward in result[1].items() if agent != "a"}, *result[2:]


@oddity
def paid_nan(env, result):
    return result[0], dict.fromkeys(result[1], float("nan")), *result[2:]


@oddity
def paid_text(env, result):
    return result[0], dict.fromkeys(result[1], "much"), *result[2:]


@oddity
def sees_infinity(env, result):
    return {agent: np.full(3, np.inf, np.float32) for agent in result[0]}, *result[1:]


@oddity
def sees_too_much(env, result):
    return {agent: np.zeros(5 if agent == "b" else 3, np.float32) for agent in result[0]}, *result[1:]


@oddity
def sees_nothing(env, result):
    return {agent: value for agent, value in result[0].items() if agent != "a"}, *result[1:]


@oddity
def a_stranger(env, result):
    return {**result[0], "z": np.zeros(3, np.float32)}, *result[1:]


@oddity
def a_flag_missing(env, result):
    return *result[:2], {}, *result[3:]


@oddity
def a_flag_of_none(env, result):
    return *result[:2], dict.fromkeys(result[2]), *result[3:]


@oddity
def outstays_its_end(env, result):
    return *result[:2], {**result[2], env.agents[0]: True}, *result[3:]


@oddity
def no_tuple(env, result):
    return list(result)


@oddity
def raises(env, result):
    raise KeyError("the door is stuck")


class Odd(ParallelEnv):
    """Every step is as `plan` says; the plan of copy k begins at its k-th entry."""

    metadata = {"name": "odd"}  # noqa: RUF012
    possible_agents = ["a", "b", "c"]  # noqa: RUF012
    plan = ("as_it_is",)
    masked = False

    def observation_space(self, agent):
        return Box(-9, 9, (3,))

    def action_space(self, agent):
        return Discrete(4)

    def reset(self, seed=None, options=None):
        self.luck, self.agents, self.time = np.random.default_rng(seed), list(self.possible_agents), 0
        self.first = int(self.luck.integers(len(self.plan)))
        return self.seen(), {agent: {"action_mask": np.ones(4, np.int8)} if self.masked else {} for agent in self.agents}

    def seen(self):
        return {agent: self.luck.random(3).astype(np.float32) for agent in self.agents}

    def step(self, actions):
        self.time += 1
        acted, pay = list(self.agents), float(self.luck.random())
        infos = {agent: {"action_mask": np.array([1, 1, 0, 1])} if self.masked else {} for agent in acted}
        usual = self.seen(), dict.fromkeys(acted, pay), dict.fromkeys(acted, False), dict.fromkeys(acted, False), infos
        return ODDITIES[self.plan[(self.first + self.time) % len(self.plan)]](self, usual)


def play(kind: type[Odd], team_reward: Any, time_limit: int | None) -> list[Any]:
    """What is seen in some steps, and how it failed, if it did."""
    env = PettingZooTeam(kind, name="odd", team_reward=team_reward, time_limit=time_limit)
    (state, view), seen = env.reset(copy_seeds(2, 3)), []
    for _ in range(8):
        try:
            state, step, view = env.step(state, view.available.to(torch.int8).argmax(-1))
        except (ContractBroken, ValueError, KeyError) as error:
            return [*seen, type(error).__name__, str(error)]
        views = [getattr(one, name) for one in (step.after, view) for name in ("obs", "state", "available", "alive")]
        seen += [step.reward, step.agent_reward, step.terminated, step.truncated, *views]
    return seen


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    plan=st.lists(st.sampled_from(["as_it_is", *ODDITIES]), min_size=1, max_size=5),
    masked=st.booleans(),
    has_state=st.booleans(),
    team_reward=st.sampled_from(["shared", "sum", "mean"]),
    time_limit=st.sampled_from([None, 1, 3]),
)
def test_what_is_read_at_once_is_what_is_read_rule_by_rule(plan, masked, has_state, team_reward, time_limit):
    kind = type("Planned", (Odd,), {"plan": tuple(plan), "masked": masked})
    if has_state:
        kind.state = lambda self: np.array([self.time, self.first, np.nan if self.time == 6 else 0.0])
    at_once = play(kind, team_reward, time_limit)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plain.Reading, "_is_usual", lambda *_: False)
        by_rule = play(kind, team_reward, time_limit)
    assert len(at_once) == len(by_rule)
    for one, other in zip(at_once, by_rule, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("plan", ["as_it_is", "dicts_in_another_order", "dicts_with_defaults_and_numpy_numbers"])
def test_usual_steps_are_read_at_once(monkeypatch, masked, plan):
    kind = type("Planned", (Odd,), {"plan": (plan,), "masked": masked})
    monkeypatch.setattr(plain, "read_step", None)
    monkeypatch.setattr(plain, "write_view", None)
    assert len(play(kind, "shared", None)) == 8 * 12


@pytest.mark.parametrize("later", ["raises", "no_tuple", "paid_nan"])
def test_what_is_wrong_with_an_earlier_copy_goes_before_the_failure_of_a_later_one(later):
    class Two(Odd):
        def step(self, actions):
            self.plan = ("sees_infinity" if actions["a"] else later,)
            return super().step(actions)

    env = PettingZooTeam(Two, name="two")
    state, _ = env.reset(copy_seeds(2, 3))
    with pytest.raises(ContractBroken, match="observation-finite: a observes NaN or infinity at step 1"):
        env.step(state, torch.tensor([[1, 0, 0], [0, 0, 0], [1, 0, 0]]))
