"""Collecting from environments in worker processes: the agents act in the copies that are ready while the others still step.

The rollout is the one that rollout.py collects, number for number, whichever copy is ready first. A copy's random numbers
come from its own seed, and the network is always asked about all copies at once (those that are out are shown what they
acted on last): a row of a matrix product depends on how many rows there are, by a rounding error, but not on what the others hold.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..envs.asynchronous import Asynchronous
from ..envs.base import Step, TeamEnv, View
from ..envs.pettingzoo import PettingZooTeam
from ..envs.randomness import EXPLORE, Clock
from .data import Rollout
from .exploration import Explore, epsilon_greedy
from .policies import Team, override
from .rollout import Carry, Finished, collect


def collector(env: TeamEnv) -> Callable[..., tuple[Rollout, Carry, Finished]]:
    """`collect_in_workers` where the environment has workers, else `collect`."""
    return collect if not isinstance(env, PettingZooTeam) or env.is_here else collect_in_workers


@torch.no_grad()
def collect_in_workers(
    env: PettingZooTeam,
    carry: Carry,
    team: Team,
    *,
    epsilon: float | Tensor,
    steps: int,
    policy_version: int = 0,
    actor: int = 0,
    explore: Explore = epsilon_greedy,
) -> tuple[Rollout, Carry, Finished]:
    """What `collect` gives, collected by acting in half of the copies (or more, if more are ready) while the rest are stepped."""
    count = len(carry.view.alive)
    stepping, board = Asynchronous(env, carry.state), _Board(carry, team, steps)
    ready = torch.arange(count)
    while True:
        if len(ready):
            q, memory = team.utility(board.view.obs, board.memory)
            action, behaviour = explore(q, board.view.available, epsilon, board.clock.key(EXPLORE))
            if team.probes is not None:
                action, behaviour = team.probes.act(q, action, behaviour, board.view, board.clock)
            action = override(action, team.members, board.view, board.clock)
            stepping.send(ready, action[ready])
            board.acted(ready, action, behaviour, memory)
        if not stepping.out:
            break
        ready, step, view = stepping.recv(min((count + 1) // 2, stepping.out))
        board.moved(ready, step, view)
        ready = ready[board.time[ready] < steps]
    return board.rollout(policy_version, actor), board.carry(stepping.state()), board.finished()


class _Board:
    """What is known of every copy, each at its own time, and the rollout as far as it is filled."""

    def __init__(self, carry: Carry, team: Team, steps: int):
        view, clock = carry.view, carry.clock
        self.view = View(view.obs.clone(), view.state.clone(), view.available.clone(), view.alive.clone())
        self.clock = Clock(clock.seed, clock.episode.clone(), clock.step.clone())
        self.memory = carry.memory["utility"].clone()
        self.episode_return, self.agent_return = carry.episode_return.clone(), carry.agent_return.clone()
        self.episode_start = carry.episode_start.clone()
        self.learns = team.learns(view.alive.shape[1])
        self.steps, self.time = steps, torch.zeros(len(view.alive), dtype=torch.int64)
        self.fields = self._fields()
        self._arrays = {name: tensor.numpy() for name, tensor in self.fields.items()}
        self._ended: list[tuple[int, int, Tensor, Tensor, Tensor]] = []

    def _fields(self) -> dict[str, Tensor]:
        """A rollout's tensors, to be filled."""
        view, (count, agents) = self.view, self.view.alive.shape
        seen = {"obs": view.obs, "state": view.state, "available": view.available, "alive": view.alive}
        like = {**seen, **{f"next_{name}": value for name, value in seen.items()}}
        fields = {name: torch.empty(self.steps, *value.shape, dtype=value.dtype) for name, value in like.items()}
        fields["action"] = torch.empty(self.steps, count, agents, dtype=torch.int64)
        fields |= {name: torch.empty(self.steps, count, agents) for name in ("behaviour", "agent_reward")}
        fields["reward"] = torch.empty(self.steps, count)
        return fields | {name: torch.empty(self.steps, count, dtype=torch.bool) for name in ("terminated", "truncated", "episode_start")}

    def _put(self, rows: Int[Tensor, " some"], values: dict[str, Tensor]) -> None:
        """These copies' values at the time of each."""
        at = self.time[rows].numpy(), rows.numpy()
        for name, value in values.items():
            self._arrays[name][at] = value.numpy()

    def acted(self, rows: Int[Tensor, " some"], action: Tensor, behaviour: Tensor, memory: Tensor) -> None:
        """These copies were sent their actions; all arguments but `rows` are about all copies."""
        view = self.view
        self._put(
            rows,
            {
                "obs": view.obs[rows], "state": view.state[rows], "available": view.available[rows],
                "alive": view.alive[rows] & self.learns, "action": action[rows],
                "behaviour": behaviour[rows].to(torch.float32).masked_fill(~self.learns, 1.0), "episode_start": self.episode_start[rows],
            },
        )  # fmt: skip
        self.memory[rows] = memory[rows]

    def moved(self, rows: Int[Tensor, " some"], step: Step, view: View) -> None:
        """These copies came back: what their step brought, and what is seen now."""
        done, agent_reward = step.terminated | step.truncated, step.agent_reward
        assert agent_reward is not None
        self._put(
            rows,
            {
                "reward": step.reward, "agent_reward": agent_reward, "terminated": step.terminated, "truncated": step.truncated,
                "next_obs": step.after.obs, "next_state": step.after.state, "next_available": step.after.available,
                "next_alive": step.after.alive & self.learns,
            },
        )  # fmt: skip
        self.episode_return[rows] += step.reward
        self.agent_return[rows] += agent_reward
        for k in done.nonzero().squeeze(-1).tolist():
            self._end(int(rows[k]))
        self.clock.episode[rows] += done.to(torch.int64)
        self.clock.step[rows] = torch.where(done, 0, self.clock.step[rows] + 1)
        self.episode_start[rows] = done
        for name in ("obs", "state", "available", "alive"):
            getattr(self.view, name)[rows] = getattr(view, name)
        self.time[rows] += 1

    def _end(self, row: int) -> None:
        """An episode of this copy is over."""
        length = self.clock.step[row] + 1
        self._ended.append((int(self.time[row]), row, self.episode_return[row].clone(), self.agent_return[row].clone(), length))
        for sums in (self.episode_return, self.agent_return, self.memory):
            sums[row] = 0

    def rollout(self, policy_version: int, actor: int) -> Rollout:
        shape = (self.steps, len(self.time))
        fields: dict[str, Any] = self.fields
        return Rollout(
            **fields,
            valid=torch.ones(shape, dtype=torch.bool),
            policy_version=torch.full(shape, policy_version),
            actor=torch.full(shape, actor),
        )

    def carry(self, state: Any) -> Carry:
        memory = {"utility": self.memory}
        return Carry(state, self.view, memory, self.clock, self.episode_return, self.agent_return, self.episode_start)

    def finished(self) -> Finished:
        """The episodes that ended, in order of time, then copy."""
        if not self._ended:
            return Finished(self.episode_return[:0], self.agent_return[:0], self.time[:0])
        columns: Sequence[Any] = list(zip(*sorted(self._ended, key=lambda entry: entry[:2]), strict=True))
        return Finished(torch.stack(columns[2]), torch.stack(columns[3]), torch.stack(columns[4]))
