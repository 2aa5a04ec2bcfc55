"""Which robots may leave their cells, all at once, as rware 2.0.0 decides it.

Draw an arrow from every robot's cell to the cell it wants (its own, when it stays). The arrows form components in each
of which at most one circle closes:

- a circle of one (a robot that stays) or of more than two cells: exactly the robots on it act;
- a circle of two (robots that would swap): nobody in the component moves;
- no circle: the arrows run down to one free cell, and only the robots on the longest way there move. At every cell the
  robot with most robots in line behind it goes first; equals as warehouse_ties.py says.

Everything is a fixed number of tensor operations: rounds of following the arrows, one for each robot. Here the robot is
the first axis and the copy the last: with 2 robots the last axis would be too short for the processor's vectors.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .warehouse_ties import Ties


def may_move(cell: Int[Tensor, "env agent"], target: Int[Tensor, "env agent"], ties: Ties | None = None) -> Bool[Tensor, "env agent"]:
    """True for the robots whose action is carried out.

    Args:
        cell: where each robot stands; no two on one cell.
        target: the cell it wants: its own or one beside it.
        ties: which of equals goes first; None (right for up to 3 robots): the one with the lowest number.

    Returns:
        Also True for every robot that stays.
    """
    n = cell.shape[1]
    if n == 1:
        return torch.ones_like(cell, dtype=torch.bool)
    cell, target = cell.t().contiguous(), target.t().contiguous()
    number = torch.arange(n, device=cell.device).unsqueeze(1)
    there = cell.unsqueeze(0) == target.unsqueeze(1)  # (who wants, who stands there, env)
    free = torch.zeros_like(cell[:1])
    follow = torch.cat((free, (there * (number + 1)).sum(1)))  # node 0 is any free cell, node j + 1 is robot j

    # behind[j]: how many robots stand in the longest line that ends in j. Circles count on and are told apart below.
    behind = torch.zeros_like(follow)
    reached, back = follow, [follow[1:] == number + 1]  # who is where it started after 1, 2, 4, 6, ... arrows
    for steps in range(1, n):
        behind.scatter_(0, reached, steps)
        reached = follow.gather(0, reached)
        if steps % 2:  # on a grid a circle of several cells has an even number of them
            back.append(reached[1:] == number + 1)
    in_circle = back[0]
    for longer in back[2:]:
        in_circle = in_circle | (longer & ~back[1])

    rival = target.unsqueeze(0) == target.unsqueeze(1)
    order = number if ties is None else ties.order(cell, target, follow, rival)
    priority = behind[1:] * (2 * n + 32) - order
    first = ~(rival & (priority.unsqueeze(0) > priority.unsqueeze(1))).any(1)

    # A robot moves when it and all before it go first, up to a free cell: look 1, 2, 4, ... robots ahead.
    clear = torch.cat((free == 0, first))
    for _ in range((n - 1).bit_length()):
        clear = clear & clear.gather(0, follow)
        follow = follow.gather(0, follow)
    return ((clear[1:] & (follow[1:] == 0)) | in_circle).t().contiguous()
