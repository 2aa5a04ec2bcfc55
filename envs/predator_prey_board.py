"""The moves of predator-prey, turn by turn, for all copies at once.

A cell's code is row * stride + col with stride = cols + sight, so that the difference of two cells' codes tells how far
apart they lie wherever that is at most `sight`. Whoever is not on the board has the code `absent`, equal to no cell and near none.

Inside, tensors carry the copies on their *last* axis: a turn then compares and selects long rows of memory, and the number of
operations (a fixed few per turn) does not depend on what happens.
"""

from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .randomness import split, uniform

SHIFTS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""(rows, cols) of right, down, left, up."""
HEADINGS = tuple(permutations(range(4)))
"""Orders in which a prey may look at its four neighbour cells."""
_HEADING_BITS = 40


@dataclass(frozen=True)
class Chance:
    """All that is left to chance in one env step."""

    predator_order: Int[Tensor, "env predator"]
    """Who moves first, second, ..."""
    prey_order: Int[Tensor, "env prey"]
    heading: Int[Tensor, "env prey"]
    """Which of `HEADINGS` each prey looks along: it goes to the first free cell, so to each free one with equal probability."""


def draw_chance(key: Int[Tensor, " env"], num_predators: int, num_prey: int) -> Chance:
    """Orders and headings, each equally likely, from one key per copy.

    Each mover has one number of 64 random bits. Their ranks are the order; a prey's heading comes from its lowest 40 bits, which
    decide no rank unless two movers agree in all higher ones.
    """
    bits = split(key, num_predators + num_prey)
    predator, prey = bits[:, :num_predators], bits[:, num_predators:]
    heading = ((prey & ((1 << _HEADING_BITS) - 1)) * len(HEADINGS)) >> _HEADING_BITS
    return Chance(predator.argsort(1), prey.argsort(1), heading)


class Board:
    """A board without inner walls, as tables over cell codes."""

    def __init__(self, rows: int, cols: int, sight: int):
        self.rows, self.cols, self.stride = rows, cols, cols + sight
        self.codes = rows * self.stride
        self.absent = 2 * self.codes
        cells = torch.arange(rows).unsqueeze(1) * self.stride + torch.arange(cols)
        self.cells = cells.flatten()
        """The code of every cell, row by row."""
        row, col = torch.arange(self.codes) // self.stride, torch.arange(self.codes) % self.stride
        inside = [(row + down >= 0) & (row + down < rows) & (col + right >= 0) & (col + right < cols) for down, right in SHIFTS]
        self.inside = torch.stack(inside, 1)
        """(code, 4): whether the cell to the right, below, ... is on the board."""
        here = torch.arange(self.codes)
        steps = [torch.where(free, here + down * self.stride + right, here) for free, (down, right) in zip(inside, SHIFTS, strict=True)]
        self.target = torch.stack([*steps, here, here], 0).flatten()
        """Action after action, then code: where it leads; off the board, like staying and catching, to the cell itself."""
        self.tried = torch.stack(steps, 0)[torch.tensor(HEADINGS).T].flatten()
        """Turn after turn, then heading, then code: the cells along each heading."""

    def along(self, heading: Int[Tensor, "prey env"], code: Int[Tensor, "prey env"]) -> Int[Tensor, "4 prey env"]:
        """The cells that prey at `code` try, first to last."""
        turn = torch.arange(4, device=code.device).view(-1, 1, 1) * (len(HEADINGS) * self.codes)
        return look_up(self.tried.to(code.device), turn + (heading * self.codes + code))

    def split(self, code: Int[Tensor, "*shape"]) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"]]:
        """(row, col)."""
        return code // self.stride, code % self.stride


def look_up(table: Int[Tensor, " entry"], index: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """`table[index]`, by the operation that is several times faster at it on a CPU."""
    return table.index_select(0, index.reshape(-1)).view(index.shape)


def any_of(fact: Bool[Tensor, "*shape"], dim: int) -> Bool[Tensor, "*rest"]:
    """`fact.any(dim)`, likewise."""
    return fact.amax(dim)


def by_turn(value: Tensor, order: Int[Tensor, "env mover"]) -> Tensor:
    """(env, mover) -> (turn, env)."""
    return value.gather(1, order).t().contiguous()


def by_mover(value: Tensor, order: Int[Tensor, "env mover"]) -> Tensor:
    """(turn, env) -> (env, mover): `by_turn` undone."""
    return torch.empty_like(value.t(), memory_format=torch.contiguous_format).scatter_(1, order, value.t())


def catch_prey(
    catching: Bool[Tensor, "prey predator env"],
) -> tuple[Int[Tensor, "prey env"], Bool[Tensor, "prey predator env"], Bool[Tensor, "predator env"]]:
    """How many catch each prey in its turn; who is free before that turn, and who in the end. Two or more freeze with their prey.

    `catching`: who stands beside that prey and plays catch.
    """
    free = torch.ones_like(catching[0])
    counts, still_free = [], []
    for beside in catching.unbind(0):
        still_free.append(free)
        catchers = beside & free
        counts.append(catchers.sum(0))
        free = free ^ (catchers & (counts[-1] >= 2))
    return torch.stack(counts), torch.stack(still_free), free


def move_in_turn(
    standing: Int[Tensor, "creature env"], tried: Int[Tensor, "way mover env"], stay: Int[Tensor, "mover env"]
) -> Int[Tensor, "mover env"]:
    """Each mover in turn goes to the first of its tried cells where nobody stands (itself included), else to `stay`.

    `standing`: where everybody is who can be in the way, the movers first.
    """
    standing = standing.clone()
    for turn, (cells, place) in enumerate(zip(tried.unbind(1), stay.unbind(0), strict=True)):
        taken = any_of(cells.unsqueeze(1) == standing, 1)
        for cell, is_taken in zip(reversed(cells.unbind(0)), reversed(taken.unbind(0)), strict=True):
            place = torch.where(is_taken, place, cell)
        standing[turn] = place
    return standing[: len(stay)]


def draw_cells(key: Int[Tensor, " env"], count: int, num_cells: int) -> Int[Tensor, "env {count}"]:
    """`count` different cells of 0 to num_cells - 1, each sequence equally likely.

    Floyd's sampling (Bentley and Floyd 1987) gives a set: from 0 to j = num_cells - count and upwards, draw one and take j itself where
    it was drawn before. A random order makes it a sequence.
    """
    keys = split(key, 2 * count)
    chosen: list[Tensor] = []
    for last, share in enumerate(uniform(keys[:, :count]).unbind(1), num_cells - count):
        drawn = (share * (last + 1)).long()
        if chosen:
            drawn = torch.where(any_of(drawn == torch.stack(chosen), 0), last, drawn)
        chosen.append(drawn)
    return torch.stack(chosen, 1).gather(1, keys[:, count:].argsort(1))
