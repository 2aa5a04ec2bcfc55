"""Banzhaf value: an agent's gain from joining, averaged over all coalitions of the others alike.

    beta_i = 1 / 2^(n-1) * sum over C without i of v(C + i) - v(C)          (Banzhaf 1965)

Not a split: the values need not add up to v(N) - v(empty). It is what an additive mixer fitted to uniformly explored data learns, and
what an estimator of "Shapley values" returns that draws coalitions uniformly.
"""

from jaxtyping import Int
from torch import Tensor

from .base import CachedGame, CoalitionGame, Credit, EpisodeGame, episode_indices, refuse_enumeration
from .shapley import banzhaf_from_values, exact_episodes, exact_function

_ESTIMAND = "each agent's gain from joining, averaged over all coalitions of the others alike; absent agents follow the reference"


def banzhaf(
    game: CoalitionGame | EpisodeGame,
    num_agents: int,
    *,
    episodes: "Int[Tensor, ' episode'] | int | None" = None,
    bound: float | None = None,
    confidence: float = 0.95,
    reference: str = "the absent agents' reference",
    unit: str = "team return",
) -> Credit:
    """Exact Banzhaf values from all 2^n coalitions, of up to 12 agents; arguments as in `shapley`.

    An episode game gives one value an episode, and an interval for their mean over episodes.
    """
    refuse_enumeration(num_agents)
    words = {"estimand": _ESTIMAND, "reference": reference, "unit": unit, "method": "exact Banzhaf value (all coalitions)"}
    if isinstance(game, EpisodeGame):
        return exact_episodes(game, episode_indices(episodes), banzhaf_from_values, bound, confidence, words)
    return exact_function(CachedGame(game, num_agents), banzhaf_from_values, words)
