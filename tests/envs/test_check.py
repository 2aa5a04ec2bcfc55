"""Each rule of the contract has a task that breaks it, and is named; tasks that keep the contract have no broken rule."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Float, Int
from pettingzoo import ParallelEnv
from teamcredit.envs.base import Saved, TeamSpec, View
from teamcredit.envs.check import broken_rules, check_team_env
from teamcredit.envs.errors import ContractBroken, UnsupportedTask
from teamcredit.envs.native import NativeEnv, Outcome
from teamcredit.envs.randomness import RESET, uniform
from torch import Tensor

torch.set_num_threads(1)


@dataclass(frozen=True)
class WalkTask:
    place: Float[Tensor, "env agent"]
    time: Int[Tensor, " env"]
    luck: Float[Tensor, " env"]


class Walk(NativeEnv[WalkTask]):
    """Two agents walk along a line for 4 steps; agent_1 dies after 2; reward: agent_0's steps forward, plus luck at the end."""

    spec = TeamSpec(
        name="walk",
        agents=("agent_0", "agent_1"),
        num_actions=2,
        obs_dim=3,
        state_dim=3,
        episode_limit=4,
        noop=(0, 0),
        return_range=(0.0, 4.0),
    )

    def begin(self, clock):
        luck = uniform(clock.key(RESET)).float()
        return WalkTask(place=torch.zeros(len(luck), 2), time=torch.zeros_like(clock.seed), luck=luck)

    def advance(self, task, action, clock):
        moved = replace(task, place=task.place + action, time=task.time + 1)
        over = moved.time >= 4
        return moved, Outcome(action[:, 0].float(), None, torch.zeros_like(over), over)

    def observe(self, task):
        alive = torch.stack([task.time >= 0, task.time < 2], 1)
        time, luck = (value.float().unsqueeze(1).expand(-1, 2) for value in (task.time, task.luck))
        obs = torch.stack([task.place, time, luck], -1) * alive.unsqueeze(-1)
        available = alive.unsqueeze(-1) | torch.tensor([True, False])
        return View(obs=obs, state=obs.new_zeros(len(obs), 3) + obs[:, 0], available=available, alive=alive)


def names(env) -> set[str]:
    return {item.rule for item in broken_rules(env)}


def changing(**fields):
    """A Walk with another spec."""

    class Changed(Walk):
        spec = replace(Walk.spec, **fields)

    return Changed()


def seeing(change):
    """A Walk whose views `change`."""

    class Changed(Walk):
        def observe(self, task):
            return change(super().observe(task), task)

    return Changed()


def stepping(change):
    """A Walk whose steps `change`."""

    class Changed(Walk):
        def step(self, state, action, *, autoreset=True):
            after, step, view = super().step(state, action, autoreset=autoreset)
            return after, change(step), view

    return Changed()


def test_a_task_that_keeps_the_contract_has_no_broken_rule():
    assert broken_rules(Walk()) == []
    check_team_env(Walk())


@pytest.mark.parametrize(
    "fields",
    [
        {"agents": ("x", "x")},
        {"noop": (0,)},
        {"noop": (0, 7)},
        {"return_range": (4.0, 0.0)},
        {"team_reward": "max"},
        {"state_is_obs": True},
        {"action_names": (("a", "b"),)},
    ],
)
def test_a_spec_that_contradicts_itself_is_named(fields):
    assert "spec" in names(changing(**fields))


@pytest.mark.parametrize("fields", [{"obs_dim": 5}, {"num_actions": 3}, {"state_dim": 9}])
def test_sizes_other_than_the_spec_says_are_named(fields):
    assert names(changing(**fields)) == {"shapes"}


def test_another_dtype_than_the_spec_says_is_named():
    assert names(changing(obs_dtype=torch.uint8)) == {"dtypes"}


def test_a_state_that_is_not_the_observations_though_the_spec_says_so_is_named():
    env = seeing(lambda view, task: replace(view, state=view.obs.flatten(1)))
    env.spec = replace(Walk.spec, state_dim=6, state_is_obs=True)
    assert names(env) == set()
    wrong = seeing(lambda view, task: replace(view, state=view.obs.flip(1).flatten(1)))
    wrong.spec = env.spec
    assert names(wrong) == {"state"}


def late(view, task, **changed):
    """The view with other fields once the time is 1."""
    return replace(view, **changed) if bool((task.time == 1).any()) else view


@pytest.mark.parametrize(
    ("rule", "env"),
    [
        ("finite", seeing(lambda view, task: late(view, task, state=view.state * torch.nan))),
        ("available", seeing(lambda view, task: late(view, task, available=torch.zeros_like(view.available)))),
        ("dead-agents", seeing(lambda view, task: replace(view, obs=view.obs + 1))),
        ("dead-agents", seeing(lambda view, task: replace(view, available=torch.ones_like(view.available)))),
        ("noop", changing(noop=(1, 1))),
        ("reward", stepping(lambda step: replace(step, reward=step.reward / 0))),
        ("flags", stepping(lambda step: replace(step, terminated=step.truncated))),
        ("episode-limit", changing(episode_limit=3)),
        ("return-range", changing(return_range=(0.0, 0.5))),
    ],
)
def test_what_one_play_shows_is_named(rule, env):
    if rule == "noop":
        env = seeing(lambda view, task: replace(view, available=view.available & torch.tensor([True, False])))
        env.spec = replace(Walk.spec, noop=(1, None))
    assert rule in names(env)


class AfterIsTheReset(Walk):
    def step(self, state, action, *, autoreset=True):
        state, step, view = super().step(state, action, autoreset=autoreset)
        return state, replace(step, after=view), view


class ViewIsTheEnd(Walk):
    def step(self, state, action, *, autoreset=True):
        state, step, _ = super().step(state, action, autoreset=autoreset)
        return state, step, step.after


class NeverFrozen(Walk):
    def step(self, state, action, *, autoreset=True):
        running = torch.zeros_like(state.terminated)
        return super().step(replace(state, terminated=running, truncated=running), action, autoreset=autoreset)


class Restless(Walk):
    """Luck comes from a counter of calls instead of the seed."""

    calls = 0

    def begin(self, clock):
        self.calls += 1
        return replace(super().begin(clock), luck=torch.full((len(clock.seed),), float(self.calls)))


class Remembers(Walk):
    """The first seed ever seen changes what comes after; replays at once are equal."""

    memory = None

    def reset(self, seeds):
        if self.memory is None or not torch.equal(seeds, self.memory[0]):
            self.memory = (seeds.clone(), 0 if self.memory is None else self.memory[1] + 1)
        return super().reset(seeds)

    def begin(self, clock):
        return replace(super().begin(clock), luck=torch.full((len(clock.seed),), float(self.memory[1])))


class Crowded(Walk):
    def begin(self, clock):
        return replace(super().begin(clock), luck=torch.full((len(clock.seed),), float(len(clock.seed))))


class Scribbles(Walk):
    def step(self, state, action, *, autoreset=True):
        result = super().step(state, action, autoreset=autoreset)
        action.zero_()
        return result


class OneBuffer(Walk):
    """All views share one array."""

    def step(self, state, action, *, autoreset=True):
        state, step, view = super().step(state, action, autoreset=autoreset)
        self.buffer = getattr(self, "buffer", torch.zeros_like(view.obs))
        if self.buffer.shape != view.obs.shape:
            self.buffer = torch.zeros_like(view.obs)
        return state, step, replace(view, obs=self.buffer.copy_(view.obs))


class SelectsWrongly(Walk):
    def select(self, state, rows):
        return super().select(state, torch.zeros_like(rows))


class CannotLoad(Walk):
    def load(self, saved):
        raise ValueError("not this one")


class LosesTheClock(Walk):
    def dump(self, state):
        saved = super().dump(state)
        return Saved(tensors={**saved.tensors, "clock.seed": saved.tensors["clock.seed"] + 1}, meta=saved.meta)


@pytest.mark.parametrize(
    ("rule", "env"),
    [
        ("after", AfterIsTheReset()),
        ("view-after-reset", ViewIsTheEnd()),
        ("freeze", NeverFrozen()),
        ("determinism", Restless()),
        ("history", Remembers()),
        ("beside-others", Crowded()),
        ("inputs-untouched", Scribbles()),
        ("inputs-untouched", OneBuffer()),
        ("select", SelectsWrongly()),
        ("save", CannotLoad()),
        ("save", LosesTheClock()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_only_several_plays_show_is_named(rule, env):
    assert rule in names(env)


def test_the_error_holds_one_sentence_per_broken_rule():
    with pytest.raises(ContractBroken, match=r"spec: .*\nepisode-limit: an episode runs for 4 env steps") as caught:
        check_team_env(changing(team_reward="max", episode_limit=3))
    assert caught.value.rule == "spec"
    assert str(caught.value).count("\n") == 1


class Pair(ParallelEnv):
    """A sound ParallelEnv of 3 steps; tests break one thing each."""

    metadata: ClassVar = {"name": "pair"}

    def __init__(self):
        self.possible_agents = ["a", "b"]
        self.box, self.two = Box(-1, 1, (2,), np.float32), Discrete(2)

    def observation_space(self, agent):
        return self.box

    def action_space(self, agent):
        return self.two

    def see(self):
        return {agent: np.array([self.t / 3, self.luck], dtype=np.float32) for agent in self.agents}

    def reset(self, seed=None, options=None):
        self.t, self.luck, self.agents = 0, np.random.default_rng(seed).random(), list(self.possible_agents)
        return self.see(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.t += 1
        obs, agents, over = self.see(), self.agents, self.t == 3
        self.agents = [] if over else agents
        each = dict.fromkeys
        return obs, each(agents, 1.0), each(agents, False), each(agents, over), {agent: {} for agent in agents}


def spoiled(change):
    """A maker of Pairs whose result of step 2 is changed by `change(env, result)`."""

    class Spoiled(Pair):
        def step(self, actions):
            result = super().step(actions)
            return change(self, list(result)) if self.t == 2 else result

    return Spoiled


def put(position, **values):
    def change(env, result):
        result[position] = {**result[position], **values}
        return tuple(result)

    return change


def drop(position, agent):
    def change(env, result):
        result[position] = {key: value for key, value in result[position].items() if key != agent}
        return tuple(result)

    return change


def test_a_sound_parallel_env_has_no_broken_rule():
    assert broken_rules(Pair) == []


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("observation-finite", put(0, b=np.array([np.nan, 0], dtype=np.float32))),
        ("observation-shape", put(0, b=np.zeros(3, dtype=np.float32))),
        ("observation-missing", drop(0, "b")),
        ("unknown-agent", put(0, c=np.zeros(2, dtype=np.float32))),
        ("reward-number", put(1, b=None)),
        ("reward-number", put(1, b=float("nan"))),
        ("flag-missing", drop(2, "a")),
        ("agents-removed", put(2, a=True)),
        ("action-mask", put(4, a={"action_mask": np.zeros(2, dtype=np.int8)})),
        ("step-returns", lambda env, result: tuple(result[:4])),
    ],
)
def test_what_a_parallel_env_breaks_is_named_and_nothing_else(rule, change):
    (broken,) = broken_rules(spoiled(change))
    assert broken.rule == rule
    assert "step" in broken.sentence


def test_two_broken_rules_of_a_parallel_env_are_both_named():
    def change(env, result):
        return put(1, a=None)(env, list(put(0, b=np.zeros(3, dtype=np.float32))(env, result)))

    assert {item.rule for item in broken_rules(spoiled(change))} == {"observation-shape", "reward-number"}


def test_an_agent_that_comes_back_is_named():
    class Revived(Pair):
        def step(self, actions):
            result = super().step(actions)
            if self.t == 1:
                self.agents = ["a"]
                result[2]["b"] = True
            if self.t == 2:
                self.agents = ["a", "b"]
                result[0]["b"] = result[0]["a"]
            return result

    assert "revival" in names(Revived)


def test_a_parallel_env_that_ignores_its_seed_is_named():
    class Unseeded(Pair):
        rng = np.random.default_rng(0)

        def reset(self, seed=None, options=None):
            super().reset(seed, options)
            self.luck = self.rng.random()
            return self.see(), {agent: {} for agent in self.agents}

    assert "determinism" in names(Unseeded)


def test_a_competitive_task_is_refused_rather_than_called_broken():
    with pytest.raises(UnsupportedTask, match="not a cooperative task"):
        broken_rules(spoiled(put(1, b=-1.0)))
