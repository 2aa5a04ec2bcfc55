"""Collecting: the decentralized agents act in B copies for T steps, and every joint transition is kept.

`Carry` is all that goes from step to step: environment state, the view to act on, the agents' memory, the clock that
names every random number, and the running sums of unfinished episodes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..envs.base import TeamEnv, View
from ..envs.randomness import EXPLORE, Clock
from .data import Rollout
from .exploration import Explore, epsilon_greedy
from .policies import Team, override


@dataclass(frozen=True)
class Carry:
    """What goes from step to step."""

    state: Any
    """The environment's own."""
    view: View
    memory: dict[str, Tensor]
    """(env, agent, ...) tensors, reset at episode starts; `utility` holds the recurrent networks' memory."""
    clock: Clock
    episode_return: Float[Tensor, " env"]
    """Undiscounted team return of the running episode so far."""
    agent_return: Float[Tensor, "env agent"]
    episode_start: Bool[Tensor, " env"]


@dataclass(frozen=True)
class Finished:
    """Episodes that ended during a rollout, in order of time, then copy."""

    returns: Float[Tensor, " episode"]
    agent_returns: Float[Tensor, "episode agent"]
    lengths: Int[Tensor, " episode"]


def begin(env: TeamEnv, team: Team, seeds: Int[Tensor, " env"]) -> Carry:
    """The first carry of fresh copies."""
    state, view = env.reset(seeds)
    count, num_agents = len(seeds), env.spec.num_agents
    return Carry(
        state=state,
        view=view,
        memory={"utility": team.utility.initial_memory(count)},
        clock=Clock.start(seeds),
        episode_return=torch.zeros(count, dtype=torch.float64),
        agent_return=torch.zeros(count, num_agents, dtype=torch.float64),
        episode_start=torch.ones(count, dtype=torch.bool),
    )


@torch.no_grad()
def collect(
    env: TeamEnv,
    carry: Carry,
    team: Team,
    *,
    epsilon: float,
    steps: int,
    policy_version: int = 0,
    actor: int = 0,
    explore: Explore = epsilon_greedy,
) -> tuple[Rollout, Carry, Finished]:
    """`steps` env steps in every copy, actions chosen by `explore` from the agents' outputs; planted members act their own policy."""
    num_agents = env.spec.num_agents
    learns = team.learns(num_agents)
    rows: dict[str, list[Tensor]] = {}
    finished: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(steps):
        view, clock = carry.view, carry.clock
        q, memory = team.utility(view.obs, carry.memory["utility"])
        action, behaviour = explore(q, view.available, epsilon, clock.key(EXPLORE))
        action = override(action, team.members, view, clock)
        state, step, next_view = env.step(carry.state, action)
        done = step.terminated | step.truncated
        agent_reward = step.reward.unsqueeze(-1).expand(-1, num_agents) if step.agent_reward is None else step.agent_reward
        row = {
            "obs": view.obs, "state": view.state, "available": view.available, "alive": view.alive & learns, "action": action,
            "behaviour": behaviour.to(torch.float32).masked_fill(~learns, 1.0), "reward": step.reward.to(torch.float32),
            "agent_reward": agent_reward.to(torch.float32), "terminated": step.terminated, "truncated": step.truncated,
            "episode_start": carry.episode_start, "next_obs": step.after.obs, "next_state": step.after.state,
            "next_available": step.after.available, "next_alive": step.after.alive & learns,
        }  # fmt: skip
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
        episode_return, agent_return = carry.episode_return + step.reward, carry.agent_return + agent_reward
        if done.any():
            finished.append((episode_return[done], agent_return[done], clock.step[done] + 1))
            running = (~done).to(torch.float64)
            episode_return, agent_return = episode_return * running, agent_return * running.unsqueeze(-1)
            memory = memory * running.to(memory.dtype)[:, None, None]
        carry = Carry(state, next_view, {"utility": memory}, clock.tick(done), episode_return, agent_return, done)
    shape = (steps, len(carry.view.alive))
    fields: dict[str, Any] = {name: torch.stack(values) for name, values in rows.items()}
    rollout = Rollout(
        **fields,
        valid=torch.ones(shape, dtype=torch.bool),
        policy_version=torch.full(shape, policy_version),
        actor=torch.full(shape, actor),
    )
    return rollout, carry, _join(finished, num_agents)


def _join(finished: list[tuple[Tensor, Tensor, Tensor]], num_agents: int) -> Finished:
    if not finished:
        return Finished(
            torch.zeros(0, dtype=torch.float64), torch.zeros(0, num_agents, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
        )
    returns, agent_returns, lengths = (torch.cat(parts) for parts in zip(*finished, strict=True))
    return Finished(returns, agent_returns, lengths)
