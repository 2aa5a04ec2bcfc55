"""Collecting from copies as they get ready gives what collecting in lockstep gives, number for number, whatever comes first."""

import random
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
from teamcredit.envs.crew import LocalCrew, Ticket
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import copy_seeds
from teamcredit.envs.registry import make
from teamcredit.marl.agents import utility_network
from teamcredit.marl.config import NetworkConfig
from teamcredit.marl.exploration import epsilon_greedy, softmax_epsilon
from teamcredit.marl.policies import Team, parse_members
from teamcredit.marl.rollout import begin, collect
from teamcredit.marl.rollout_async import collect_in_workers, collector

torch.set_num_threads(1)


class Short(ParallelEnv):
    """Short episodes of random length, from which `b` may leave early; each is paid its own."""

    metadata = {"name": "short"}  # noqa: RUF012
    possible_agents = ["a", "b", "c"]  # noqa: RUF012

    def observation_space(self, agent):
        return Box(-9, 9, (4,))

    def action_space(self, agent):
        return Discrete(3)

    def seen(self):
        return {agent: self.luck.random(4).astype(np.float32) for agent in self.agents}

    def reset(self, seed=None, options=None):
        self.luck, self.agents, self.time = np.random.default_rng(seed), list(self.possible_agents), 0
        self.end, self.death = self.luck.integers(3, 9), self.luck.integers(1, 9)
        return self.seen(), {}

    def step(self, actions):
        self.time += 1
        views, acted, over = self.seen(), self.agents, self.time == self.end
        solved = over and self.end % 2 == 0
        gone = {agent: bool(solved or (agent == "b" and self.time == self.death)) for agent in acted}
        cut = dict.fromkeys(acted, bool(over and not solved))
        self.agents = [] if over else [agent for agent in acted if not gone[agent]]
        return views, {agent: float(action + self.luck.random()) for agent, action in actions.items()}, gone, cut, {}


class AnyOrder(LocalCrew):
    """Environments of this process, which are ready in an order of nobody's choosing."""

    draw = random.Random(0)

    def wait(self, tickets: Sequence[Ticket], minimum: int) -> list[Ticket]:
        return super().wait(self.draw.sample(tickets, (count := self.draw.randint(minimum, len(tickets)))), count)


def team_for(env: PettingZooTeam, kind: Any, *, planted: bool) -> Team:
    torch.manual_seed(1)
    members, names = parse_members(["c=random"] if planted else [], env.spec, {})
    return Team(utility=utility_network(NetworkConfig(kind=kind, hidden=12), env.spec), members=members, planted=names)


def flat(value: Any) -> list[torch.Tensor]:
    """The tensors of a rollout, a carry without its state, or the finished episodes."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for one in value.values() for tensor in flat(one)]
    return [
        tensor
        for one in fields(value)
        if one.name != "state" or "Carry" not in type(value).__name__
        for tensor in flat(getattr(value, one.name))
    ]


@pytest.mark.parametrize("copies", [1, 2, 5])
@pytest.mark.parametrize("kind, planted, explore", [("gru", False, epsilon_greedy), ("mlp", True, softmax_epsilon)])
def test_rollouts_of_copies_that_come_in_any_order_are_those_of_lockstep(copies, kind, planted, explore):
    env = PettingZooTeam(Short, name="short", team_reward="sum")
    other = PettingZooTeam(Short, name="short", team_reward="sum")
    other.work_in(AnyOrder(Short, other.here.layout, reuse=True, first=Short()))
    seeds, team = copy_seeds(3, copies), team_for(env, kind, planted=planted)
    mine, theirs = begin(env, team, seeds), begin(other, team, seeds)
    for version in range(3):
        settings: dict[str, Any] = {"epsilon": 0.3, "steps": 11, "policy_version": version, "actor": 2, "explore": explore}
        rollout, mine, ended = collect(env, mine, team, **settings)
        rollout_, theirs, ended_ = collect_in_workers(other, theirs, team, **settings)
        for one, same in ((rollout, rollout_), (mine, theirs), (ended, ended_)):
            for tensor, its_twin in zip(flat(one), flat(same), strict=True):
                assert tensor.dtype == its_twin.dtype
                assert torch.equal(tensor, its_twin)
        assert len(ended.returns) > 0
        for name, tensor in env.dump(mine.state).tensors.items():
            assert torch.equal(tensor, other.dump(theirs.state).tensors[name])


def test_a_rollout_without_an_end_has_no_finished_episodes():
    env = PettingZooTeam(Short, name="short", team_reward="sum")
    team = team_for(env, "mlp", planted=False)
    _, _, ended = collect_in_workers(env, begin(env, team, copy_seeds(3, 2)), team, epsilon=0.3, steps=1)
    assert (ended.returns.shape, ended.agent_returns.shape, ended.lengths.dtype) == ((0,), (0, 3), torch.int64)


def test_only_environments_in_workers_are_collected_from_as_they_get_ready():
    assert collector(make("native/spread")) is collect
    assert collector(PettingZooTeam(Short, name="short", team_reward="sum")) is collect
    apart = PettingZooTeam(Short, name="short", team_reward="sum")
    apart.work_in(AnyOrder(Short, apart.here.layout, reuse=True, first=Short()))
    assert collector(apart) is collect_in_workers


@pytest.mark.parametrize("kind", ["mlp", "gru"])
@pytest.mark.parametrize("share", [True, False])
def test_a_copys_utilities_do_not_depend_on_what_the_other_copies_see_to_the_last_bit(kind, share):
    env = PettingZooTeam(Short, name="short", team_reward="sum")
    torch.manual_seed(0)
    for count in (2, 3, 8, 33):
        net = utility_network(NetworkConfig(kind=kind, share=share, hidden=64), env.spec)
        obs, memory = torch.randn(count, 3, 4), torch.randn(count, 3, net.memory_dim)
        others = torch.arange(count) % 2 == 1
        with torch.no_grad():
            q, kept = net(obs, memory)
            changed, kept_ = net(torch.where(others[:, None, None], 7.0, obs), memory)
        assert torch.equal(q[~others], changed[~others])
        assert torch.equal(kept[~others], kept_[~others])
