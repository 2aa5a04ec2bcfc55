"""A delayed-reward version of a task: the same episodes, paid at their end."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv
from teamcredit.envs.check import check_team_env
from teamcredit.envs.delayed_reward import DelayedNative, DelayedTeam, delay_reward
from teamcredit.envs.foraging import Foraging
from teamcredit.envs.look import look
from teamcredit.envs.matrix import MatrixGame
from teamcredit.envs.native import NativeEnv
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import EXPLORE, Clock, choice, copy_seeds
from teamcredit.envs.spread import Spread
from teamcredit.envs.switch import Switch


class Counting(ParallelEnv):
    """Two agents; step t pays each agent its action plus t; the episode terminates after `length` steps, a number by the seed."""

    metadata: ClassVar = {"name": "counting"}

    def __init__(self):
        self.possible_agents = ["a", "b"]
        self.agents: list[str] = []
        self.time, self.length = 0, 0

    def observation_space(self, agent):
        return spaces.Box(0, 100, (1,))

    def action_space(self, agent):
        return spaces.Discrete(3)

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.length = 2 + seed % 3
        self.agents, self.time = list(self.possible_agents), 0
        return self._seen(), {agent: {} for agent in self.agents}

    def _seen(self):
        return {agent: np.array([self.time], dtype=np.float32) for agent in self.agents}

    def step(self, actions):
        self.time += 1
        rewards = {agent: float(action + self.time) for agent, action in actions.items()}
        over = self.time == self.length
        seen, infos = self._seen(), {agent: {} for agent in self.agents}
        flags = dict.fromkeys(self.agents, over)
        if over:
            self.agents = []
        return seen, rewards, flags, dict.fromkeys(flags, False), infos


def python_task() -> PettingZooTeam:
    return PettingZooTeam(Counting, name="counting", team_reward="sum")


TASKS = {
    "spread": lambda: Spread(episode_limit=6),
    "foraging": lambda: Foraging(5, 5, 2, 2, episode_limit=9),
    "switch": lambda: Switch(episode_limit=8),
    "climbing": MatrixGame,
    "a Python task": python_task,
}
every_task = pytest.mark.parametrize("make", TASKS.values(), ids=list(TASKS))


def play(env, steps: int, *, autoreset: bool = True):
    """(reward, agent reward, done) of random play, the same actions for the task and its delayed version."""
    seeds = copy_seeds(5, 7)
    state, view = env.reset(seeds)
    clock, history = Clock.start(seeds), []
    for _ in range(steps):
        keys = torch.stack([clock.key(EXPLORE) + agent for agent in range(view.available.shape[1])], 1)
        state, step, view = env.step(state, choice(keys, view.available), autoreset=autoreset)
        history.append((step.reward.double(), step.agent_reward, step.terminated | step.truncated, step.after.obs))
        clock = clock.tick()
    return history


@every_task
def test_the_delayed_version_keeps_the_contract(make):
    check_team_env(delay_reward(make()))


@every_task
def test_the_same_episodes_are_paid_at_their_end_and_nothing_before(make):
    plain, delayed = play(make(), 40), play(delay_reward(make()), 40)
    owed, ends = torch.zeros(7, dtype=torch.float64), 0
    for (reward, _, done, obs), (paid, _, done_too, obs_too) in zip(plain, delayed, strict=True):
        assert torch.equal(done, done_too)
        assert torch.equal(obs, obs_too)
        owed += reward
        torch.testing.assert_close(paid, torch.where(done, owed, 0.0), rtol=1e-6, atol=1e-6)
        owed, ends = owed.masked_fill(done, 0.0), ends + int(done.sum())
    assert ends > 7


@every_task
def test_the_agents_own_rewards_are_paid_at_the_end_too(make):
    plain, delayed = play(make(), 12, autoreset=False), play(delay_reward(make()), 12, autoreset=False)
    if plain[0][1] is None:
        assert delayed[0][1] is None
        return
    sums = [torch.stack([agent_reward for _, agent_reward, _, _ in history]).double().sum(0) for history in (plain, delayed)]
    torch.testing.assert_close(*sums, rtol=1e-6, atol=1e-6)
    assert all(not bool(agent_reward[~done].any()) for _, agent_reward, done, _ in delayed)


@every_task
def test_without_autoreset_an_ended_episode_is_paid_once(make):
    delayed = play(delay_reward(make()), 14, autoreset=False)
    paid = torch.stack([reward != 0 for reward, _, _, _ in delayed]).sum(0)
    assert bool((paid <= 1).all())
    assert bool(delayed[-1][2].all())


@pytest.mark.parametrize("make", [lambda: Spread(episode_limit=6), python_task], ids=["native", "Python"])
def test_what_is_owed_is_forked_and_saved_with_the_state(make):
    env = delay_reward(make())
    state, _ = env.reset(copy_seeds(1, 4))
    action = torch.ones(4, env.spec.num_agents, dtype=torch.int64)
    state, _, _ = env.step(state, action)
    rows = torch.tensor([3, 3, 1])
    loaded = env.load(env.dump(state))
    for other, picked in ((env.select(state, rows), rows), (loaded, torch.arange(4))):
        paid, again = [], []
        this, that = env.load(env.dump(state)), other
        for _ in range(6):
            this, step, _ = env.step(this, action, autoreset=False)
            that, copy, _ = env.step(that, action[picked], autoreset=False)
            paid.append(step.reward[picked])
            again.append(copy.reward)
        assert torch.equal(torch.stack(paid), torch.stack(again))
        assert bool((torch.stack(paid) != 0).any())


def test_native_tasks_stay_native_and_others_are_wrapped_as_they_are():
    native, python = delay_reward(Spread()), delay_reward(python_task())
    assert isinstance(native, DelayedNative)
    assert isinstance(native, NativeEnv)
    assert isinstance(python, DelayedTeam)
    assert native.spec.name == "spread (reward delayed)"
    assert native.spec.episode_limit == Spread().spec.episode_limit


def test_a_delayed_task_is_drawn_as_the_task_itself():
    plain, delayed = Spread(), delay_reward(Spread())
    pictures = [look(env, env.reset(torch.tensor([3]))[0]).pixels for env in (plain, delayed)]
    assert (pictures[0] == pictures[1]).all()
