"""How often another action of an agent changes what comes next.

    u_i = P(something that is not the agent's own follows differently | a_i replaced by another available action, all else alike)

Decisions are drawn from episodes of the team. The task is copied at each; one copy goes on as it did, in the other the agent takes another
available action once, drawn uniformly. Both then play on for `HORIZON` env steps with the same random numbers, the agent by its own policy.
Counted as different: the team's reward, the end of the episode, or an action of a teammate. What teammates merely see is not counted: they
see every move of an agent that walks about. A screen, not a verdict: to change something need not help.
"""

import torch
from torch import Tensor

from ..envs.base import TeamEnv
from ..envs.native import NativeEnv
from ..envs.randomness import Clock
from .evaluate import seeds_from
from .exploration import uniform_action
from .policies import Team, team_action
from .situations import Situation, record, starts

HORIZON = 4
"""Env steps looked at: the step of the other action and those after it."""
EPISODES, DECISIONS = 16, 64
"""Episodes that decisions are drawn from, and decisions per agent; a quarter of both where environments are copied one by one."""


@torch.no_grad()
def measure_influence(env: TeamEnv, team: Team, first_seed: int, *, decisions: int | None = None) -> tuple[list[float | None], int]:
    """u_i per agent and the env steps played; None for an agent without a choice, and for all where the task cannot be copied."""
    quick = isinstance(env, NativeEnv)
    episodes, wanted = (EPISODES, DECISIONS) if quick else (EPISODES // 4, DECISIONS // 4)
    wanted = wanted if decisions is None else decisions
    played = record(env, team, seeds_from(first_seed, episodes), 1)
    steps = int(played.length.sum())
    generator = torch.Generator().manual_seed(first_seed)
    groups = [(rows, situation) for _, rows, situation in starts(env, played, 1)] if quick else _rows(played.situations, played.length)
    found: list[float | None] = []
    for agent in range(env.spec.num_agents):
        places = [(group, row) for group, (rows, at) in enumerate(groups) for row in _choices(at, rows, agent)]
        if not places:
            found.append(None)
            continue
        chosen = [places[index] for index in torch.randperm(len(places), generator=generator)[:wanted].tolist()]
        changed = 0
        for group in sorted({group for group, _ in chosen}):
            rows = torch.tensor([row for of, row in chosen if of == group])
            try:
                number, more = _differ(env, team, groups[group][1], rows, agent, generator)
            except ValueError:  # the task cannot be brought back to a moment
                return [None] * env.spec.num_agents, steps
            changed, steps = changed + number, steps + more
        found.append(changed / len(chosen))
    return found, steps


def _rows(situations: tuple[tuple[int, int, Situation], ...], length: Tensor) -> list[tuple[Tensor, Situation]]:
    """The rows of each situation whose episode still runs."""
    return [((length[first : first + len(at.memory)] > step).nonzero().squeeze(-1), at) for step, first, at in situations]


def _choices(at: Situation, rows: Tensor, agent: int) -> list[int]:
    """Those of the rows in which the agent is alive and has a choice."""
    has = (at.view.available[rows, agent].sum(-1) > 1) & at.view.alive[rows, agent]
    return rows[has].tolist()


def _differ(env: TeamEnv, team: Team, at: Situation, rows: Tensor, agent: int, generator: torch.Generator) -> tuple[int, int]:
    """In how many rows something changes, and the env steps played."""
    number, twice = len(rows), rows.repeat(2)
    state = env.select(at.state, twice)
    view = type(at.view)(*(getattr(at.view, name)[twice] for name in ("obs", "state", "available", "alive")))
    clock = Clock(*(getattr(at.clock, name)[twice] for name in at.clock.__dataclass_fields__))
    memory = at.memory[twice]
    mates = torch.arange(env.spec.num_agents) != agent
    changed, running, steps = torch.zeros(number, dtype=torch.bool), torch.ones(2 * number, dtype=torch.bool), 0
    for step_number in range(HORIZON):
        action, memory = team_action(team, view, memory, clock)
        if step_number == 0:
            taken, free = action[:number, agent], view.available[:number, agent]
            others = free & (torch.arange(free.shape[1]) != taken.unsqueeze(1))
            numbers = torch.rand(number, generator=generator)
            action[number:, agent] = uniform_action(numbers, others)
        changed |= _unlike(action[:, mates] * running.unsqueeze(1), number)
        state, step, view = env.step(state, action, autoreset=False)
        steps += int(running.sum())
        changed |= _unlike(step.reward.unsqueeze(1) * running.unsqueeze(1), number)
        changed |= _unlike(torch.stack([step.terminated, step.truncated], 1), number)
        running = running & ~(step.terminated | step.truncated)
        clock = clock.tick()
        if not running.any():
            break
    return int(changed.sum()), steps


def _unlike(values: Tensor, number: int) -> Tensor:
    """Rows of the first half that differ from those of the second."""
    return (values[:number] != values[number:]).any(1)
