"""Real episodes that can be gone back to: what copies of a task were in, and how it goes on from there with some agents replaced.

A situation is everything just before a joint action: the task's state, what is seen, the agents' memories and the clock. Native
situations are rows of tensors, of which thousands are played on side by side; those of Python environments are copied by `env.select`.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..envs.base import TeamEnv, View
from ..envs.native import NativeEnv, NativeState, map_tensors
from ..envs.randomness import Clock, fold
from .errors import ConfigError
from .evaluate import copies_at_once, refuse_endless
from .policies import Override, Team, override, team_action


@dataclass(frozen=True)
class Situation:
    """Some copies just before a joint action: all that is needed to play on."""

    state: Any
    view: View
    memory: Tensor
    clock: Clock


@dataclass(frozen=True)
class Played:
    """Episodes as the team plays them, with the situations they were in."""

    reward: Float[Tensor, "time episode"]
    length: Int[Tensor, " episode"]
    truncated: Bool[Tensor, " episode"]
    situations: tuple[tuple[int, int, Situation], ...]
    """(step, first episode, the situation of that and the following episodes)."""


@torch.no_grad()
def record(env: TeamEnv, team: Team, seeds: Int[Tensor, " episode"], every: int) -> Played:
    """One episode per seed as the team is deployed, the situation of every `every`-th step kept."""
    size = copies_at_once(env)
    parts = [_record_together(env, team, seeds[first : first + size], first, every) for first in range(0, len(seeds), size)]
    longest = max(len(part.reward) for part in parts)
    return Played(
        reward=torch.cat([torch.nn.functional.pad(part.reward, (0, 0, 0, longest - len(part.reward))) for part in parts], 1),
        length=torch.cat([part.length for part in parts]),
        truncated=torch.cat([part.truncated for part in parts]),
        situations=tuple(kept for part in parts for kept in part.situations),
    )


def _record_together(env: TeamEnv, team: Team, seeds: Tensor, first: int, every: int) -> Played:
    state, view = env.reset(seeds)
    clock, memory = Clock.start(seeds), team.utility.initial_memory(len(seeds))
    running, truncated = torch.ones(len(seeds), dtype=torch.bool), torch.zeros(len(seeds), dtype=torch.bool)
    length, rewards, kept = torch.zeros(len(seeds), dtype=torch.int64), [], []
    while running.any():
        if len(rewards) % every == 0:
            kept.append((len(rewards), first, Situation(state, view, memory, clock)))
        action, memory = team_action(team, view, memory, clock)
        state, step, view = env.step(state, action, autoreset=False)
        rewards.append(step.reward.to(torch.float64) * running)
        length += running
        truncated = truncated | (running & step.truncated)
        running = running & ~(step.terminated | step.truncated)
        clock = clock.tick()
        refuse_endless(env, running, clock)
    return Played(torch.stack(rewards), length, truncated, tuple(kept))


def starts(env: TeamEnv, played: Played, every: int) -> list[tuple[Int[Tensor, "start 2"], Int[Tensor, " start"], Situation]]:
    """(block of `every` steps, episode) of each start, its row in a situation, and the situation; native ones are put into one."""
    found = []
    for step, first, situation in played.situations:
        rows = (played.length[first : first + len(situation.memory)] > step).nonzero().squeeze(-1)
        found.append((torch.stack([torch.full_like(rows, step // every), rows + first], 1), rows, situation))
    if not isinstance(env, NativeEnv):
        return found
    together = map_tensors(lambda *parts: torch.cat(parts), *(select(env, situation, rows) for _, rows, situation in found))
    where = torch.cat([where for where, _, _ in found])
    return [(where, torch.arange(len(where)), together)]


def select(env: TeamEnv, situation: Situation, rows: Int[Tensor, " row"]) -> Situation:
    """Copies of the rows named, repeats allowed; ConfigError for a task that cannot be brought back to a moment."""
    try:
        state = env.select(situation.state, rows)
    except ValueError as error:
        raise ConfigError(str(error), remedy="--method shapley, which plays whole episodes") from error
    view, clock = (map_tensors(lambda value: value[rows], part) for part in (situation.view, situation.clock))
    return Situation(state, view, situation.memory[rows], clock)


def with_luck(start: Situation, seed: int, rollout: Int[Tensor, " fork"]) -> Situation:
    """Other random numbers from here on: the agents', and a native task's, for V_S is an expectation over both."""

    def drawn_anew(clock: Clock) -> Clock:
        return replace(clock, seed=fold(fold(clock.seed, seed), rollout))

    state = replace(start.state, clock=drawn_anew(start.state.clock)) if isinstance(start.state, NativeState) else start.state
    return replace(start, state=state, clock=drawn_anew(start.clock))


def play_on(env: TeamEnv, team: Team, at: Situation, absent: Override, gamma: float) -> tuple[Float[Tensor, " fork"], int]:
    """The return up to the episode's end, discounted to the start; env steps."""
    total, discount, env_steps = torch.zeros(len(at.memory), dtype=torch.float64), 1.0, 0
    fork, running = torch.arange(len(total)), torch.ones(len(total), dtype=torch.bool)
    while running.any():
        if isinstance(env, NativeEnv) and 2 * int(running.sum()) <= len(running):  # drop the rows of those that have ended
            rows = running.nonzero().squeeze(-1)
            at, absent = select(env, at, rows), Override(absent.policy, absent.mask[rows])
            fork, running = fork[rows], running[rows]
        action, memory = team_action(team, at.view, at.memory, at.clock)
        action = override(action, [absent], at.view, at.clock)
        state, step, view = env.step(at.state, action, autoreset=False)
        at = Situation(state, view, memory, at.clock.tick())
        total[fork] += discount * step.reward * running
        env_steps += int(running.sum())
        running = running & ~(step.terminated | step.truncated)
        discount *= gamma
        refuse_endless(env, running, at.clock)
    return total, env_steps
