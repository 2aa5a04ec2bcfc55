"""Which agents replace each other and which need each other: what two agents gain together beyond what each gains alone.

    at the full team        I_ij = v(N) - v(N - i) - v(N - j) + v(N - i - j)
    over all orders         I_ij = sum over C without i, j of |C|! (n - |C| - 2)! / (n - 1)! * (v(C + ij) - v(C + i) - v(C + j) + v(C))

The second is the Shapley interaction index (Grabisch and Roubens 1999). Below 0 the two are substitutes, above 0 complements.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import CachedGame, CoalitionGame, EpisodeGame, all_coalitions, episode_indices, refuse_enumeration
from .intervals import mean_interval
from .shapley import agents_in


@dataclass(frozen=True)
class Interactions:
    """The Shapley interaction index of every pair, measured in episodes."""

    value: Float[Tensor, "agent agent"]
    """I_ij in team return: below 0 the two stand in for each other, above 0 they need each other. Zeros on the diagonal."""
    low: Float[Tensor, "agent agent"]
    """Lower end of each pair's own 95% interval (or the confidence asked for)."""
    high: Float[Tensor, "agent agent"]
    reference: str
    episodes: int
    env_steps: int
    resampled: str


def interactions_from_values(values: Float[Tensor, "coalition *batch"]) -> Float[Tensor, "agent agent *batch"]:
    """The Shapley interaction index of every pair, in the unit of `values`; symmetric, with zeros on the diagonal.

    Args:
        values: entry m is v(C) where bit i of m tells whether agent i is in C (`all_coalitions`); further axes are separate games.
    """
    n, values = agents_in(values), values.to(torch.float64)
    masks, sizes = torch.arange(2**n), all_coalitions(n).sum(1)
    factorial = math.factorial
    weight = torch.tensor([factorial(size) * factorial(n - size - 2) / factorial(n - 1) for size in range(n - 1)], dtype=torch.float64)
    found = torch.zeros(n, n, *values.shape[1:], dtype=torch.float64)
    for i in range(n):
        for j in range(i):
            rest = masks[masks & (1 << i | 1 << j) == 0]
            together = values[rest | 1 << i | 1 << j] - values[rest | 1 << i] - values[rest | 1 << j] + values[rest]
            found[i, j] = found[j, i] = torch.tensordot(weight[sizes[rest]], together, dims=1)
    return found


def interactions_at_full_team(game: CoalitionGame, num_agents: int) -> Float[Tensor, "agent agent"]:
    """I_ij at the full team for every pair, from 1 + n (n + 1) / 2 coalitions; symmetric, with zeros on the diagonal."""
    cached = CachedGame(game, num_agents)
    out = torch.eye(num_agents, dtype=torch.bool)
    left_out = out.unsqueeze(0) | out.unsqueeze(1)  # (agent, agent, member): on the diagonal one agent, elsewhere two
    without = cached(~left_out.flatten(0, 1)).unflatten(0, (num_agents, num_agents))
    alone = without.diagonal()
    pairs = cached(torch.ones(1, num_agents, dtype=torch.bool)) - alone.unsqueeze(0) - alone.unsqueeze(1) + without
    return pairs.fill_diagonal_(0.0)


def measure_interactions(
    game: EpisodeGame,
    *,
    episodes: "Int[Tensor, ' episode'] | int",
    bound: float | None = None,
    confidence: float = 0.95,
    reference: str = "the absent agents' reference",
) -> Interactions:
    """I_ij of every pair over paired episodes, all 2^n coalitions played (up to 12 agents).

    `bound`: the width R of one episode's possible team return, if known: an index of one episode lies within +-2 R, and its interval is
    guaranteed; else it is a t interval.
    """
    refuse_enumeration(game.num_agents)
    indices, steps = episode_indices(episodes), game.env_steps
    per_episode = interactions_from_values(game.play(all_coalitions(game.num_agents), indices))
    low, high, how = mean_interval(per_episode, bound=None if bound is None else 2 * bound, confidence=confidence)
    value = per_episode.mean(-1)
    for ends in (low, high):
        ends.fill_diagonal_(0.0)
    return Interactions(value, low, high, reference, len(indices), game.env_steps - steps, f"{len(indices)} paired episodes; {how}")
