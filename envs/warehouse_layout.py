"""The floor of a warehouse as rware 2.0.0 lays it out, and the tables that turn a cell's number into what is around it.

`shelf_rows` x `shelf_columns` blocks of shelves, two wide and `column_height` high, stand between corridors one cell
wide; the block above the two goals in the middle of the last row is left out. Cells are numbered row by row; the number
`num_cells` stands for every place outside.
"""

import re

import torch
from jaxtyping import Bool, Int
from torch import Tensor

UP, DOWN, LEFT, RIGHT = range(4)
_SIZES = {"tiny": (1, 3), "small": (2, 3), "medium": (2, 5), "large": (3, 5)}
_REQUESTS = {"easy": 2.0, None: 1.0, "hard": 0.5}
_MOVES = torch.tensor([[0, -1], [0, 1], [-1, 0], [1, 0]])  # (x, y) per heading


def parse_size(size: str) -> dict[str, int]:
    """Keyword arguments of `Warehouse` from the package's id form, "tiny-2ag" or "small-4ag-hard".

    The word names the blocks of shelves, `2ag` the robots; as many shelves are requested as there are robots, twice as
    many with `-easy`, half as many (rounded down) with `-hard`. "rware-" before and "-v2" after are allowed.
    """
    match = re.fullmatch(r"(?:rware-)?(tiny|small|medium|large)-([1-9]|1\d)ag(?:-(easy|hard))?(?:-v2)?", size)
    if match is None:
        raise ValueError(
            f"{size!r} is no warehouse size; write <tiny|small|medium|large>-<1 to 19>ag[-easy|-hard], "
            "for example 'tiny-2ag' or 'small-4ag-hard'"
        )
    name, agents, difficulty = match.groups()
    shelf_rows, shelf_columns = _SIZES[name]
    return {
        "shelf_rows": shelf_rows,
        "shelf_columns": shelf_columns,
        "num_agents": int(agents),
        "num_requests": int(int(agents) * _REQUESTS[difficulty]),
    }


class Layout:
    """One floor plan.

    `highway` (cell,): corridors, where no shelf may be put down. `storage` (shelf,): the other cells, in order, each the
    first place of a shelf. `first_goal`: the left goal; the other is beside it. `ahead` (cell, heading): the next
    cell, or the cell itself at the wall. `around` (cell, window): the cells that a robot there senses, row by row.
    """

    highway: Bool[Tensor, " cell"]
    storage: Int[Tensor, " shelf"]
    ahead: Int[Tensor, "cell 4"]
    around: Int[Tensor, "cell window"]

    def __init__(self, shelf_rows: int, shelf_columns: int, column_height: int, sensor_range: int):
        self.rows, self.cols = (column_height + 1) * shelf_rows + 2, 3 * shelf_columns + 1
        self.num_cells = self.rows * self.cols
        cell = torch.arange(self.num_cells)
        self.x, self.y = cell % self.cols, cell // self.cols
        middle = self.cols // 2
        last = self.num_cells - self.cols
        self.first_goal = last + middle - 1
        queue = (self.y > self.rows - column_height - 3) & ((self.x == middle - 1) | (self.x == middle))
        self.highway = (self.x % 3 == 0) | (self.y % (column_height + 1) == 0) | (self.y == self.rows - 1) | queue
        self.storage = (~self.highway).nonzero().squeeze(1)
        limit = torch.tensor([self.cols, self.rows]) - 1
        ahead = (torch.stack((self.x, self.y), 1).unsqueeze(1) + _MOVES).clamp_min(0).minimum(limit)
        self.ahead = ahead[..., 1] * self.cols + ahead[..., 0]
        self.around = self._window(sensor_range)

    def _window(self, reach: int) -> Int[Tensor, "cell window"]:
        offset = torch.arange(-reach, reach + 1)
        x = self.x.view(-1, 1, 1) + offset
        y = self.y.view(-1, 1, 1) + offset.unsqueeze(1)
        inside = (x >= 0) & (x < self.cols) & (y >= 0) & (y < self.rows)
        return torch.where(inside, y * self.cols + x, self.num_cells).flatten(1)
