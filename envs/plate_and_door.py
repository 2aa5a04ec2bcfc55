"""Plate and door: a guard that stands still and is needed, a walker, and a dummy; a task whose credit is known exactly.

    guard    [0]  1   2          three cells; 0 is the plate, where it starts
    walker    0   1   2 | 3      a corridor; the door between 2 and 3 opens while the guard is on the plate

All move at once: stay, left or right; a move beyond an end stays. The walker passes the door only if the guard stands on the plate when
the step begins, otherwise it stays at 2. The team is paid 1 when the walker reaches 3, which terminates the episode; it is truncated
after `horizon` env steps. What the dummy does changes nothing. `credit/plate_and_door.py` has the truth by dynamic programming.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import TeamSpec, View
from .native import NativeEnv, Outcome
from .randomness import Clock

AGENTS = ("guard", "walker", "dummy")
ACTION_NAMES = ("stay", "left", "right")
GUARD_CELLS, WALKER_CELLS = 3, 4
_STAY, _RIGHT = 0, 2
_SHIFTS = torch.tensor([0, -1, 1])
_FEATURES = (*(f"guard in {cell}" for cell in range(GUARD_CELLS)), *(f"walker in {cell}" for cell in range(WALKER_CELLS)))


@dataclass(frozen=True)
class PlateTask:
    """One moment."""

    guard: Int[Tensor, " env"]
    """The guard's cell."""
    walker: Int[Tensor, " env"]
    """The walker's cell."""
    elapsed: Int[Tensor, " env"]
    """Env steps taken in this episode."""


class PlateAndDoor(NativeEnv[PlateTask]):
    """B copies of plate and door.

    An agent observes its own cell (the dummy: that it is the dummy) and the share of the time that is left; the state is where guard
    and walker are, and that share.

    Args:
        horizon: env steps until truncation, at least the 3 that the walker needs.
    """

    def __init__(self, horizon: int = 8):
        if horizon < 3:
            raise ValueError(f"horizon is {horizon}; the walker needs 3 steps")
        self.horizon = horizon
        self.spec = TeamSpec(
            name="plate-and-door",
            agents=AGENTS,
            num_actions=len(ACTION_NAMES),
            obs_dim=len(_FEATURES) + 2,
            state_dim=len(_FEATURES) + 1,
            episode_limit=horizon,
            truncates_at_limit=True,
            action_names=(ACTION_NAMES,) * len(AGENTS),
            obs_names=((*_FEATURES, "dummy", "time left"),) * len(AGENTS),
            noop=(_STAY,) * len(AGENTS),
            return_range=(0.0, 1.0),
            team_reward="shared",
        )

    @property
    def scripted(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """`trained`: the walker goes right, the others stay."""
        return {"trained": _trained}

    def begin(self, clock: Clock) -> PlateTask:
        start = torch.zeros_like(clock.seed)
        return PlateTask(guard=start, walker=start, elapsed=start)

    def advance(self, task: PlateTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[PlateTask, Outcome]:
        shift = _SHIFTS.to(action.device)[action]
        guard = (task.guard + shift[:, 0]).clamp(0, GUARD_CELLS - 1)
        walker = (task.walker + shift[:, 1]).clamp(0, WALKER_CELLS - 1)
        is_shut = (walker == WALKER_CELLS - 1) & (task.guard != 0)
        walker = torch.where(is_shut, task.walker, walker)
        elapsed = task.elapsed + 1
        terminated = walker == WALKER_CELLS - 1
        outcome = Outcome(
            reward=terminated.float(),
            agent_reward=None,
            terminated=terminated,
            truncated=(elapsed >= self.horizon) & ~terminated,
        )
        return PlateTask(guard=guard, walker=walker, elapsed=elapsed), outcome

    def observe(self, task: PlateTask) -> View:
        device = task.guard.device
        guard = _one_hot(task.guard, GUARD_CELLS)
        walker = _one_hot(task.walker, WALKER_CELLS)
        left = ((self.horizon - task.elapsed).double() / self.horizon).float().unsqueeze(1)
        none, one = torch.zeros_like(left), torch.ones_like(left)
        rows = (
            (guard, none.expand(-1, WALKER_CELLS), none, left),
            (none.expand(-1, GUARD_CELLS), walker, none, left),
            (none.expand(-1, GUARD_CELLS + WALKER_CELLS), one, left),
        )
        everyone = torch.ones(len(left), len(AGENTS), dtype=torch.bool, device=device)
        return View(
            obs=torch.stack([torch.cat(row, 1) for row in rows], 1),
            state=torch.cat((guard, walker, left), 1),
            available=everyone.unsqueeze(-1).expand(-1, -1, len(ACTION_NAMES)),
            alive=everyone,
        )


def _one_hot(cell: Int[Tensor, " env"], cells: int) -> Float[Tensor, "env {cells}"]:
    return (cell.unsqueeze(-1) == torch.arange(cells, device=cell.device)).float()


def _trained(obs: Float[Tensor, "*batch agent obs"], available: Tensor) -> Int[Tensor, "*batch agent"]:
    is_walker = obs[..., GUARD_CELLS : GUARD_CELLS + WALKER_CELLS].sum(-1) > 0
    return torch.where(is_walker, _RIGHT, _STAY)
