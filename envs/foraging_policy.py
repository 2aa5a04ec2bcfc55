"""A hand-written forager: decentralised play of level-based foraging, a yardstick for trained teams.

Each player decides from its own observation, which shows the whole board. So each can also work out what the others
are about to do, and all break ties the same way without a word:

1. Beside a food that the players beside it can lift together: load.
2. Else pick a target: the nearest food one can lift alone (left to a player that can too and is nearer); if there is
   none, the food nearest to all players together, which is the same food for everybody.
3. Step towards it, along the longer axis, never into a food or another player; where nothing brings one nearer, pass
   on the right. Of two players that want one cell, the upper (then left) one goes.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LOAD = 5
MOVES = torch.tensor([[-1, 0], [1, 0], [0, -1], [0, 1]])  # actions 1 to 4
_WIDE = 1024  # above any coordinate: row * _WIDE + col orders cells
_NEVER = 1 << 40
_AROUND = torch.tensor([[row, col] for row in range(-2, 3) for col in range(-2, 3) if abs(row) + abs(col) <= 2])
_PLACE = {tuple(offset): place for place, offset in enumerate(_AROUND.tolist())}
_NEXT = torch.tensor([_PLACE[row, col] for row, col in MOVES.tolist()])
_SECOND = torch.cat((torch.zeros_like(MOVES[:1]), MOVES))  # after a move: stay, or move again
_FURTHER = torch.tensor([[_PLACE[row, col] for row, col in (MOVES + second).tolist()] for second in _SECOND])  # (further, move)
_AHEAD = (MOVES + _SECOND.unsqueeze(1) - MOVES.view(4, 1, 1, 2)).permute(3, 1, 0, 2).to(torch.int16)
"""By axis: (further, side, move), where one then is as seen from a side of the goal, less the way from here to the goal."""


def greedy_forager(
    obs: Float[Tensor, "*batch agent obs"], available: Bool[Tensor, "*batch agent 6"], *, num_food: int, num_players: int
) -> Int[Tensor, "*batch agent"]:
    """One action per agent from its own observation: foods, itself, the others, each as (row, col, level); the rest is ignored."""
    foods, players = _seen(obs, num_food, num_players)
    distance = (foods[..., None, :, :2] - players[..., :, None, :2]).abs().sum(-1)
    move, wish, ready = _plan(foods, players, distance, available)
    code = players[..., 0] * _WIDE + players[..., 1]
    clash = (wish[..., 1:, :] == wish[..., :1, :]).all(-1) & (code[..., 1:] < code[..., :1])
    return torch.where(ready[..., 0, :].any(-1), LOAD, torch.where(clash.any(-1), 0, move))


def expected_cells(
    obs: Float[Tensor, "*batch agent obs"], available: Bool[Tensor, "*batch agent 6"], *, num_food: int, num_players: int
) -> tuple[Int[Tensor, "*batch agent player 2"], Int[Tensor, "*batch agent player 2"]]:
    """Where every player stands, and the cell it would go to as a forager, worked out by each agent; oneself first."""
    foods, players = _seen(obs, num_food, num_players)
    distance = (foods[..., None, :, :2] - players[..., :, None, :2]).abs().sum(-1)
    return players[..., :2], _plan(foods, players, distance, available)[1]


def _seen(obs: Tensor, num_food: int, num_players: int) -> tuple[Int[Tensor, "*batch food 3"], Int[Tensor, "*batch player 3"]]:
    """Foods and players, oneself first."""
    items = obs[..., : 3 * (num_food + num_players)].unflatten(-1, (num_food + num_players, 3)).long()
    return items[..., :num_food, :], items[..., num_food:, :]


def _plan(
    foods: Int[Tensor, "*batch food 3"],
    players: Int[Tensor, "*batch player 3"],
    distance: Int[Tensor, "*batch player food"],
    available: Bool[Tensor, "*batch 6"],
) -> tuple[Int[Tensor, "*batch"], Int[Tensor, "*batch player 2"], Bool[Tensor, "*batch player food"]]:
    """The first player's move (0 to stay), the cell every player wishes for, and the foods that each may load now."""
    strength = ((distance == 1) * players[..., 2:]).sum(-2)
    ready = (distance == 1) & ((strength >= foods[..., 2]) & (foods[..., 2] > 0)).unsqueeze(-2)
    target = _choose_target(foods, players, distance)
    goal = foods[..., :2].gather(-2, target.unsqueeze(-1).expand(*target.shape, 2))
    waiting = ready.any(-1) | (distance.gather(-1, target.unsqueeze(-1)).squeeze(-1) == 1)
    return *_wishes(foods, players, goal, available, waiting), ready


def _choose_target(
    foods: Int[Tensor, "*batch food 3"], players: Int[Tensor, "*batch player 3"], distance: Int[Tensor, "*batch player food"]
) -> Int[Tensor, "*batch player"]:
    """The index of the food each player goes for."""
    level, exists = foods[..., None, :, 2], foods[..., None, :, 2] > 0
    alone = (players[..., 2:] >= level) & exists
    # How early a player would be there, ties by position: a total order of the players for every food.
    code = players[..., 0] * _WIDE + players[..., 1]
    lateness = torch.where(alone, distance * _WIDE * _WIDE + code.unsqueeze(-1), _NEVER)
    first = lateness == lateness.amin(-2, keepdim=True)
    together = exists & (players[..., 2].sum(-1)[..., None, None] >= level)
    cost = torch.where(together, 3 * _WIDE + distance.sum(-2, keepdim=True), 4 * _WIDE * _WIDE)
    cost = torch.where(alone, distance + torch.where(first, 0, _WIDE), cost)
    return cost.argmin(-1)


def _wishes(
    foods: Int[Tensor, "*batch food 3"],
    players: Int[Tensor, "*batch player 3"],
    goal: Int[Tensor, "*batch player 2"],
    available: Bool[Tensor, "*batch 6"],
    waiting: Bool[Tensor, "*batch player"],
) -> tuple[Int[Tensor, "*batch"], Int[Tensor, "*batch player 2"]]:
    """The first player's move (0 to stay), and the cell every player wishes for."""
    moves, items = MOVES.to(players.device), torch.cat((foods, players), -2)
    own = players[..., None, :2]  # (*batch player 1 2)
    cell = own + moves
    near = _free_around(players, items)  # the player's own cell and those within two steps
    blocked = ~near[..., _NEXT]
    blocked[..., 0, :] |= ~available[..., 1:5]
    heading = goal.unsqueeze(-2) - own
    longer_axis_left = (heading - moves).abs().amax(-1)
    right = moves[:, 0] * heading[..., 1].sign() - moves[:, 1] * heading[..., 0].sign()
    cost = (_steps_left(heading, near, _free_around(goal, items)[..., _NEXT]) * _WIDE + longer_axis_left) * 4 - right
    best = cost.masked_fill(blocked, _NEVER).argmin(-1)
    stays = waiting | blocked.all(-1)
    wish = torch.where(stays.unsqueeze(-1), players[..., :2], cell.gather(-2, best[..., None, None].expand(*best.shape, 1, 2)).squeeze(-2))
    return torch.where(stays[..., 0], 0, best[..., 0] + 1), wish


def _steps_left(
    heading: Int[Tensor, "*batch player 1 2"], near: Bool[Tensor, "*batch player 13"], free_side: Bool[Tensor, "*batch player 4"]
) -> Int[Tensor, "*batch player 4"]:
    """How far from a free side of the goal each move and one more step can bring one: looking ahead leads around a food and its crowd.

    What is not free counts _WIDE (a side) or twice that (a cell on the way). Small numbers, batch axes last: so torch is fast.
    """
    row, col = (part.to(torch.int16).unsqueeze(0).unsqueeze(0) for part in heading.unbind(-1))  # (1 1 *batch player 1)
    ahead_row, ahead_col = (part.view(5, 4, *[1] * (heading.dim() - 2), 4) for part in _AHEAD.to(heading.device).unbind(0))
    left = (row - ahead_row).abs_().add_((col - ahead_col).abs_())  # (further side *batch player move)
    left += (_WIDE * ~free_side).to(torch.int16).movedim(-1, 0)[None, ..., None]
    left += (2 * _WIDE * ~near[..., _FURTHER]).to(torch.int16).movedim(-2, 0).unsqueeze(1)
    return left.amin((0, 1)).to(torch.int64)


def _free_around(cell: Int[Tensor, "*batch player _"], items: Int[Tensor, "*batch item 3"]) -> Bool[Tensor, "*batch player 13"]:
    """For the cells at `_AROUND` from each of these: True where no food and no player is, nor the upper or left edge of the board."""
    around = _AROUND.to(cell.device, torch.int32)
    row, col = (cell[..., axis, None].to(torch.int32) + around[:, axis] for axis in (0, 1))
    code, taken = row * _WIDE + col, (items[..., 0] * _WIDE + items[..., 1]).to(torch.int32)
    free = (row >= 0) & (col >= 0)
    for item in taken.unbind(-1):
        free &= code != item[..., None, None]
    return free
