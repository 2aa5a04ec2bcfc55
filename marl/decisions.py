"""Episodes as the deployed team's agents lived them: at every step what each saw, remembered, could do and did."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..envs.randomness import Clock
from .evaluate import copies_at_once, refuse_endless
from .policies import team_action
from .run import Run


@dataclass(frozen=True)
class Lived:
    """Played episodes. Time runs to the end of the longest; where `living` is False the other entries mean nothing."""

    obs: Tensor
    """(time, episode, agent, obs), as observed; images are bytes."""
    memory: Float[Tensor, "time episode agent memory"]
    """Before the step; of width 0 for agents without one."""
    available: Bool[Tensor, "time episode agent action"]
    action: Int[Tensor, "time episode agent"]
    living: Bool[Tensor, "time episode agent"]
    """The agent is alive and the episode goes on."""
    env_steps: int


@torch.no_grad()
def live(run: Run, seeds: Int[Tensor, " episode"]) -> Lived:
    """One episode per seed, without exploration, planted members included."""
    size = copies_at_once(run.env)
    parts = [_live_together(run, seeds[start : start + size]) for start in range(0, len(seeds), size)]
    longest = max(len(part["action"]) for part in parts)
    joined: dict[str, Any] = {name: torch.cat([_padded(part[name], longest) for part in parts], 1) for name in parts[0]}
    return Lived(**{name: values for name, values in joined.items() if name != "running"}, env_steps=int(joined["running"].sum()))


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values.new_zeros(length - len(values), *values.shape[1:])])


def _live_together(run: Run, seeds: Tensor) -> dict[str, Tensor]:
    env, team = run.env, run.team
    state, view = env.reset(seeds)
    clock, memory = Clock.start(seeds), team.utility.initial_memory(len(seeds))
    running = torch.ones(len(seeds), dtype=torch.bool)
    steps: dict[str, list[Tensor]] = {}
    while running.any():
        action, after = team_action(team, view, memory, clock)
        row = {
            "obs": view.obs, "memory": memory, "available": view.available, "action": action,
            "living": view.alive & running.unsqueeze(-1), "running": running,
        }  # fmt: skip
        for name, values in row.items():
            steps.setdefault(name, []).append(values)
        state, step, view = env.step(state, action, autoreset=False)
        memory, running, clock = after, running & ~(step.terminated | step.truncated), clock.tick()
        refuse_endless(env, running, clock)
    return {name: torch.stack(values) for name, values in steps.items()}
