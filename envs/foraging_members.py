"""Hand-written members that do not pull their weight, to plant beside foragers (foraging_policy.py) where the truth must be known.

Both walk after the nearest other player and never load. The *shadow* stays beside it. The *saboteur* works out where that player
will go next if it is a forager, and steps into the same cell: players who want one cell all stay where they are.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .foraging_policy import MOVES, expected_cells

_NEVER = 1 << 40


def shadow(
    obs: Float[Tensor, "*batch agent obs"], available: Bool[Tensor, "*batch agent 6"], *, num_food: int, num_players: int
) -> Int[Tensor, "*batch agent"]:
    """One action per agent: the first of the moves that bring it nearest to the nearest other player, onto nobody; 0 once beside it."""
    players = obs[..., 3 * num_food : 3 * (num_food + num_players)].unflatten(-1, (num_players, 3))[..., :2].long()
    return _follow(players, available)


def saboteur(
    obs: Float[Tensor, "*batch agent obs"], available: Bool[Tensor, "*batch agent 6"], *, num_food: int, num_players: int
) -> Int[Tensor, "*batch agent"]:
    """One action per agent: into the cell the nearest other player is about to enter, if one move leads there; else as the shadow."""
    players, wish = expected_cells(obs, available, num_food=num_food, num_players=num_players)
    own, others = players[..., :1, :], players[..., 1:, :]
    nearest = (others - own).abs().sum(-1).argmin(-1)[..., None, None].expand(*own.shape)
    at, going = others.gather(-2, nearest), wish[..., 1:, :].gather(-2, nearest)
    into = (own + MOVES.to(obs.device) == going).all(-1) & available[..., 1:5] & (at != going).any(-1)
    return torch.where(into.any(-1), into.to(torch.int64).argmax(-1) + 1, _follow(players, available))


def _follow(players: Int[Tensor, "*batch player 2"], available: Bool[Tensor, "*batch 6"]) -> Int[Tensor, "*batch"]:
    own, others = players[..., :1, :], players[..., 1:, :]
    distance = (others - own).abs().sum(-1)
    nearest = distance.argmin(-1)[..., None, None].expand(*own.shape)
    cell = own + MOVES.to(own.device)
    taken = (cell.unsqueeze(-2) == others.unsqueeze(-3)).all(-1).any(-1)
    left = (others.gather(-2, nearest) - cell).abs().sum(-1).masked_fill(taken | ~available[..., 1:5], _NEVER)
    reached, move = left.min(-1)
    now = distance.amin(-1)
    return torch.where((now <= 1) | (reached >= now), 0, move + 1)
