"""Fresh boards of level-based foraging, drawn as lbforaging's `reset` of a new environment draws them.

Players one after another on any free cell; then foods one after another on an inner cell that is free and not too
close to a food. The reference draws cells until one fits (giving up after 1,000 misses); here the fitting cells are
numbered and one is drawn, which has the same distribution.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_MISSING = torch.tensor([-1, -1, 0])  # stands for a food that is gone or never fitted, or an item out of sight


class Cells:
    """The cells of a board, numbered row by row, and where food may lie.

    `inner` (cell,): off the border. `too_close` (cell, cell): which cells a food on a given cell forbids to others,
    namely its 3x3 block and the cells two straight on.
    """

    def __init__(self, rows: int, cols: int):
        self.cols, self.count = cols, rows * cols
        row, col = torch.arange(self.count) // cols, torch.arange(self.count) % cols
        self.inner = (row > 0) & (row < rows - 1) & (col > 0) & (col < cols - 1)
        down, right = (row.unsqueeze(1) - row).abs(), (col.unsqueeze(1) - col).abs()
        self.too_close = (torch.maximum(down, right) <= 1) | ((down + right == 2) & (down * right == 0))

    def items(self, cell: Int[Tensor, "env item"], level: Int[Tensor, "env item"]) -> Int[Tensor, "env item 3"]:
        """(row, col, level) of what lies on the cells."""
        return torch.stack((cell // self.cols, cell % self.cols, level), -1)


def spawn_players(
    cells: Cells, where: Float[Tensor, "env player"], how_strong: Float[Tensor, "env player"], levels: tuple[int, int]
) -> tuple[Int[Tensor, "env player 3"], Bool[Tensor, "env cell"]]:
    """Players from uniform numbers in [0, 1), and the cells still free."""
    free = torch.ones(len(where), cells.count, dtype=torch.bool, device=where.device)
    taken = []
    for draw in where.unbind(1):
        taken.append(_pick(free, draw))
        free.scatter_(1, taken[-1].unsqueeze(1), False)
    low, high = levels
    level = low + (how_strong * (high - low + 1)).long()
    return cells.items(torch.stack(taken, 1), level), free


def lowest_sum(player_level: Int[Tensor, "env player"]) -> Int[Tensor, "env 1"]:
    """The reference's highest food level: the sum of the three lowest player levels."""
    return player_level.sort(1).values[:, :3].sum(1, keepdim=True)


def spawn_food(
    cells: Cells,
    free: Bool[Tensor, "env cell"],
    where: Float[Tensor, "env food"],
    how_strong: Float[Tensor, "env food"],
    lowest: Int[Tensor, "env 1"],
    highest: Int[Tensor, "env 1"],
) -> Int[Tensor, "env food 3"]:
    """Foods from uniform numbers in [0, 1), in row-major order; (-1, -1, 0) last for those that found no legal cell."""
    legal, too_close = free & cells.inner.to(free.device), cells.too_close.to(free.device)
    taken = []
    for draw in where.unbind(1):
        taken.append(_pick(legal, draw))
        legal &= ~too_close[taken[-1].clamp(max=cells.count - 1)]
    level = lowest + (how_strong * (highest - lowest + 1)).long()
    cell, order = torch.stack(taken, 1).sort(1)
    foods = cells.items(cell, level.gather(1, order))
    return torch.where((cell < cells.count).unsqueeze(-1), foods, _MISSING.to(free.device))


def _pick(allowed: Bool[Tensor, "env cell"], draw: Float[Tensor, " env"]) -> Int[Tensor, " env"]:
    """One allowed cell per row, each equally likely; the number of cells where none is allowed."""
    passed = allowed.cumsum(1)
    rank = (draw * passed[:, -1]).long()
    return (passed <= rank.unsqueeze(1)).sum(1)


def compact(items: Int[Tensor, "*batch item 3"], keep: Bool[Tensor, "*batch item"]) -> Int[Tensor, "*batch item 3"]:
    """The kept items moved to the front in their order, (-1, -1, 0) behind them."""
    slots = keep.shape[-1]
    place = torch.where(keep, keep.cumsum(-1) - 1, slots)  # the rest goes to one slot that is cut off
    front = _MISSING.to(items.device).expand(*items.shape[:-2], slots + 1, 3).clone()
    return front.scatter_(-2, place.unsqueeze(-1).expand_as(items), items)[..., :slots, :]
