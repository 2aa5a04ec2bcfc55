"""Banzhaf value: an agent's gain from joining, averaged over all coalitions of the others alike.

    beta_i = 1 / 2^(n-1) * sum over C without i of v(C + i) - v(C)          (Banzhaf 1965)

Not a split: the values need not add up to v(N) - v(empty). It is what an additive mixer fitted to uniformly explored data learns, and
what an estimator of "Shapley values" returns that draws coalitions uniformly.
"""

from jaxtyping import Int
from torch import Tensor

from .base import CachedGame, CoalitionGame, Credit, EpisodeGame, all_coalitions, episode_indices, refuse_enumeration
from .intervals import mean_interval
from .shapley import banzhaf_from_values

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
        return _from_episodes(game, episode_indices(episodes), bound, confidence, words)
    cached = CachedGame(game, num_agents)
    values = cached(all_coalitions(num_agents))
    return Credit(
        value=banzhaf_from_values(values),
        low=None,
        high=None,
        total=float(values[-1] - values[0]),
        evaluations=cached.evaluations,
        episodes=0,
        env_steps=0,
        resampled="nothing: the value is exact",
        approximate=False,
        **words,
    )


def _from_episodes(game: EpisodeGame, episodes: Tensor, bound: float | None, confidence: float, words: dict[str, str]) -> Credit:
    steps, evaluations = game.env_steps, game.evaluations
    values = game.play(all_coalitions(game.num_agents), episodes)
    per_episode = banzhaf_from_values(values)
    low, high, how = mean_interval(per_episode, bound=bound, confidence=confidence)
    return Credit(
        value=per_episode.mean(-1),
        low=low,
        high=high,
        total=float((values[-1] - values[0]).mean()),
        evaluations=game.evaluations - evaluations,
        episodes=len(episodes),
        env_steps=game.env_steps - steps,
        resampled=f"{len(episodes)} paired episodes; {how}",
        approximate=bound is None,
        **words,
    )
