"""Collecting: the decentralized agents act in B copies for T steps, and every joint transition is kept.

`Carry` is all that goes from step to step: environment state, the view to act on, the agents' memory, the clock that
names every random number, and the running sums of unfinished episodes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..envs.base import TeamEnv, View
from ..envs.randomness import EXPLORE, Clock
from .agent_reward import AgentReward
from .data import Rollout
from .exploration import Explore, epsilon_greedy
from .policies import Team, override

Utility = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(obs, memory) of every copy -> the agents' outputs and their memory to carry on."""


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


@dataclass(frozen=True)
class Ending:
    """How each copy's episode stands after one env step; it counts where `done`."""

    done: Bool[Tensor, " env"]
    episode_return: Float[Tensor, " env"]
    agent_return: Float[Tensor, "env agent"]
    length: Int[Tensor, " env"]


def advance(
    env: TeamEnv,
    carry: Carry,
    team: Team,
    *,
    epsilon: float | Tensor,
    explore: Explore = epsilon_greedy,
    utility: Utility | None = None,
) -> tuple[Carry, dict[str, Tensor], Ending]:
    """One env step in every copy: the next carry, the joint transition's fields (env, ...) by name, and the episodes' endings.

    `utility` is asked instead of the team's own network (several seeds' networks, each for its own copies).
    No branch depends on what a tensor holds, so a compiler captures it whole where it captures the environment.
    """
    view, clock = carry.view, carry.clock
    num_agents = env.spec.num_agents
    learns = team.learns(num_agents)
    q, memory = (utility or team.utility)(view.obs, carry.memory["utility"])
    action, behaviour = explore(q, view.available, epsilon, clock.key(EXPLORE))
    if team.probes is not None:
        action, behaviour = team.probes.act(q, action, behaviour, view, clock)
    action = override(action, team.members, view, clock)
    # Copies of live environments are made before the step, while they stand here.
    others = team.pay.others(env, carry.state, view, action, clock) if isinstance(team.pay, AgentReward) else None
    state, step, next_view = env.step(carry.state, action)
    done = step.terminated | step.truncated
    agent_reward = step.reward.unsqueeze(-1).expand(-1, num_agents) if step.agent_reward is None else step.agent_reward
    reward = step.reward
    if team.bonus is not None:
        reward = reward + (team.bonus(env, carry.state, view, action, step.reward, clock) - step.reward.unsqueeze(-1)).sum(-1)
    if isinstance(team.pay, AgentReward) and others is not None:
        paid = team.pay.split(others, step.reward)
    else:
        paid = agent_reward if team.pay is None else team.pay(env, carry.state, view, action, step.reward, clock)
    row = {
        "obs": view.obs, "state": view.state, "available": view.available, "alive": view.alive & learns, "action": action,
        "behaviour": behaviour.to(torch.float32).masked_fill(~learns, 1.0), "reward": reward.to(torch.float32),
        "agent_reward": paid.to(torch.float32), "terminated": step.terminated, "truncated": step.truncated,
        "episode_start": carry.episode_start, "next_obs": step.after.obs, "next_state": step.after.state,
        "next_available": step.after.available, "next_alive": step.after.alive & learns,
    }  # fmt: skip
    ending = Ending(done, carry.episode_return + step.reward, carry.agent_return + agent_reward, clock.step + 1)
    carry = Carry(
        state=state,
        view=next_view,
        memory={"utility": memory.masked_fill(done[:, None, None], 0.0)},
        clock=clock.tick(done),
        episode_return=ending.episode_return.masked_fill(done, 0.0),
        agent_return=ending.agent_return.masked_fill(done.unsqueeze(-1), 0.0),
        episode_start=done,
    )
    return carry, row, ending


@torch.no_grad()
def collect(
    env: TeamEnv,
    carry: Carry,
    team: Team,
    *,
    epsilon: float | Tensor,
    steps: int,
    policy_version: int = 0,
    actor: int = 0,
    explore: Explore = epsilon_greedy,
) -> tuple[Rollout, Carry, Finished]:
    """`steps` env steps in every copy, actions chosen by `explore` from the agents' outputs; planted members act their own policy."""
    rows: dict[str, list[Tensor]] = {}
    endings = []
    for _ in range(steps):
        carry, row, ending = advance(env, carry, team, epsilon=epsilon, explore=explore)
        endings.append(ending)
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    shape = (steps, len(carry.view.alive))
    fields: dict[str, Any] = {name: torch.stack(values) for name, values in rows.items()}
    rollout = Rollout(
        **fields,
        valid=torch.ones(shape, dtype=torch.bool),
        policy_version=torch.full(shape, policy_version),
        actor=torch.full(shape, actor),
    )
    return rollout, carry, finished(endings)


def finished(endings: list[Ending]) -> Finished:
    """The episodes that ended, in order of time, then copy."""
    done = torch.stack([ending.done for ending in endings])
    return Finished(
        returns=torch.stack([ending.episode_return for ending in endings])[done],
        agent_returns=torch.stack([ending.agent_return for ending in endings])[done],
        lengths=torch.stack([ending.length for ending in endings])[done],
    )
