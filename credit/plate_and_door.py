"""A task whose credit is known exactly: a guard that stands still and is needed, a walker, and a dummy.

The guard has cells 0 to 2 and starts on the plate, cell 0; the walker has a corridor of cells 0 to 3 and starts at 0. A door between
2 and 3 lets the walker pass only if the guard stands on the plate when the step begins. All move at once (stay, left, right); a move
beyond an end stays. The team earns 1 when the walker reaches 3, which terminates the episode; it is truncated after `horizon` steps.
Trained are: guard stays, walker goes right, dummy stays. So the guard does nothing and is needed, but only where its stand-in would move.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

GUARD, WALKER, DUMMY = range(3)
_MOVES = (0, -1, 1)


@dataclass(frozen=True)
class PlateAndDoor:
    """Exact values along the trained team's one episode."""

    rewards: Float[Tensor, " time"]
    values: Float[Tensor, "coalition moment"]
    """V_S of every moment, by dynamic programming; coalitions as in `all_coalitions`, agents in the order guard, walker, dummy."""


def plate_and_door(reference: Literal["random", "noop"], horizon: int = 8) -> PlateAndDoor:
    """The truth under a reference: uniform over the three actions, or staying."""
    if reference not in ("random", "noop"):
        raise ValueError(f'reference is {reference!r}; choose "random" or "noop"')
    if horizon < 3:
        raise ValueError(f"horizon is {horizon}; the walker needs 3 steps")

    def moves(own: int, trained: bool) -> tuple[tuple[int, float], ...]:
        if trained:
            return ((own, 1.0),)
        return tuple((move, 1 / 3) for move in _MOVES) if reference == "random" else ((0, 1.0),)

    @cache
    def value(mask: int, guard: int, walker: int, left: int) -> float:
        """P(the walker arrives in the `left` steps that are left)."""
        if walker == 3 or left == 0:  # at 3 the reward was paid on arrival
            return 0.0
        total = 0.0
        for guard_move, p in moves(0, bool(mask >> GUARD & 1)):
            for walker_move, q in moves(1, bool(mask >> WALKER & 1)):
                to = min(max(walker + walker_move, 0), 3)
                if walker == 2 and to == 3 and guard != 0:
                    to = 2
                onward = 1.0 if to == 3 else value(mask, min(max(guard + guard_move, 0), 2), to, left - 1)
                total += p * q * onward
        return total

    for left in range(horizon):  # from the end backwards, so that no value waits for a long chain of others
        for mask, guard, walker in product(range(8), range(3), range(3)):
            value(mask, guard, walker, left)
    table = [[value(mask, 0, moment, horizon - moment) for moment in range(4)] for mask in range(8)]
    return PlateAndDoor(rewards=torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), values=torch.tensor(table, dtype=torch.float64))
