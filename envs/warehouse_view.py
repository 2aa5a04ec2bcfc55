"""What a robot sees, and what the global state says of it, as tables over what its cell and the cells around it hold.

What a cell holds is one small number, so that one lookup tells a robot all about a cell near it:

    512 + the shelf's number, if there is a shelf,   + 1024 (heading + 1), if there is a robot,
    + 8192 if that robot carries the shelf,          + 16384 if the shelf is requested
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from .warehouse_layout import Layout

HEADINGS = ("up", "down", "left", "right")
NUMBER, SHELF, ROBOT, LOADED, REQUESTED = 511, 512, 1024, 8192, 16384
_KINDS = 2 * REQUESTED // SHELF  # what a cell holds, but for the shelf's number


def own_tables(lay: Layout) -> tuple[Float[Tensor, "own 8"], Float[Tensor, "requested 8"]]:
    """What a robot sees of itself, by (cell, heading, loaded), and what the state says of it, by the same and the request.

    obs: x, y, loaded, one-hot heading, on a corridor. state: x and y scaled to [0, 1], loaded, loaded with a requested
    shelf, one-hot heading.
    """
    cell, heading, loaded = torch.cartesian_prod(torch.arange(lay.num_cells), torch.arange(4), torch.arange(2)).unbind(1)
    x, y, facing = lay.x[cell], lay.y[cell], one_hot(heading)
    obs = torch.column_stack((x, y, loaded, facing, lay.highway[cell])).float()
    scaled = torch.column_stack((x / (lay.cols - 1), y / (lay.rows - 1), loaded))
    state = [torch.column_stack((scaled, torch.full_like(x, wanted), facing)) for wanted in range(2)]
    return obs, torch.stack(state, 1).flatten(0, 1).float()


def cell_table() -> Float[Tensor, "kind 7"]:
    """What a robot sees of a cell, by what it holds // 512: a robot, its one-hot heading (up where none is), a shelf, a requested one."""
    holds = torch.arange(_KINDS) * SHELF
    robot = (holds & (LOADED - ROBOT)) // ROBOT
    heading = one_hot((robot - 1).clamp(0, 3), 4)
    return torch.column_stack((robot > 0, heading, (holds & SHELF) > 0, holds >= REQUESTED)).float()


def obs_names(sensor_range: int) -> tuple[str, ...]:
    """Labels of a robot's features, in the order of `Warehouse.observe`; cells by how far right and down of it they lie."""
    offsets = range(-sensor_range, sensor_range + 1)
    of_cell = ["agent", *(f"agent_heads_{heading}" for heading in HEADINGS), "shelf", "requested_shelf"]
    own = ["x", "y", "carries", *(f"heads_{heading}" for heading in HEADINGS), "on_highway"]
    return (*own, *(f"cell_{right:+d}_{down:+d}_{what}" for down in offsets for right in offsets for what in of_cell))
