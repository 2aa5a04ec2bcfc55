"""Shapley value: an agent's average gain from joining the team, over all orders in which agents may join.

    phi_i = sum over C without i of |C|! (n - |C| - 1)! / n! * (v(C + i) - v(C))          (Shapley 1953)

Exact from all 2^n coalitions, or sampled (sampling.py has the ways). By default a sample is one *ring*: a random circular order.
Its n starting points and two directions are 2n orders in which every agent takes every position equally often, and they need
only the n (n - 1) arcs of the ring plus the empty and the full team. Every ring is unbiased, adds up to v(N) - v(empty) exactly,
and is exact for symmetric games such as majority votes and for 2-additive ones. Coalitions drawn uniformly instead would give
the Banzhaf value, another index.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import (
    LARGEST_EXACT,
    CachedGame,
    CoalitionGame,
    Credit,
    EpisodeGame,
    all_coalitions,
    check_num_agents,
    episode_indices,
    refuse_enumeration,
)
from .intervals import mean_interval
from .sampling import HOW, Sampler, calls, check_sampler, draw

_FEW = 8
Index = Callable[[Tensor], Tensor]
"""Values of all 2^n coalitions (coalition, *batch) -> credit (agent, *batch)."""
_ESTIMAND = "each agent's average gain from joining, over all orders of joining; agents not yet joined follow the reference"


def _semivalue(values: Tensor, weight_of_size: list[float]) -> Tensor:
    """sum over C without i of weight[|C|] (v(C + i) - v(C)), for each agent. Differences come first: a dummy gets exactly 0."""
    n, half = len(weight_of_size), len(values) // 2
    weights = torch.tensor(weight_of_size, dtype=torch.float64)[all_coalitions(n - 1).sum(1)]  # C without i has n - 1 bits, whoever i is
    found = []
    for i in range(n):
        outside, inside = values.unflatten(0, (half >> i, 2, 2**i)).unbind(1)
        found.append(torch.tensordot(weights, (inside - outside).flatten(0, 1), dims=1))
    return torch.stack(found)


def agents_in(values: Tensor) -> int:
    """How many agents 2^n coalition values are of; ValueError where their number is no such power."""
    num_agents = values.shape[0].bit_length() - 1
    if values.shape[0] != 2**num_agents or not 1 <= num_agents <= LARGEST_EXACT:
        raise ValueError(
            f"{values.shape[0]} coalition values: expected 2^n of them for n = 1 to {LARGEST_EXACT} agents, "
            "where entry m is v of the agents whose bits are set in m (credit.base.all_coalitions)"
        )
    return num_agents


def shapley_from_values(values: Float[Tensor, "coalition *batch"]) -> Float[Tensor, "agent *batch"]:
    """Exact Shapley values from all 2^n coalition values.

    Args:
        values: entry m is v(C) where bit i of m tells whether agent i is in C; further axes (episodes, say) are separate games.

    Returns:
        phi, in the unit of `values`; its sum over agents is v(N) - v(empty).
    """
    n = agents_in(values)
    factorial = math.factorial
    return _semivalue(values.to(torch.float64), [factorial(size) * factorial(n - size - 1) / factorial(n) for size in range(n)])


def banzhaf_from_values(values: Float[Tensor, "coalition *batch"]) -> Float[Tensor, "agent *batch"]:
    """Banzhaf values: the gain from joining averaged over all 2^(n-1) coalitions alike.

    Not a split of the total: the sum is not v(N) - v(empty). It is what uniformly drawn coalitions, and an additive mixer fitted
    under uniform exploration, estimate.
    """
    n = agents_in(values)
    return _semivalue(values.to(torch.float64), [0.5 ** (n - 1)] * n)


def shapley(
    game: CoalitionGame | EpisodeGame,
    num_agents: int,
    *,
    episodes: "Int[Tensor, ' episode'] | int | None" = None,
    exact_up_to: int | None = None,
    budget: int = 1000,
    rings: int = 16,
    sampler: Sampler = "rings",
    generator: torch.Generator | None = None,
    bound: float | None = None,
    confidence: float = 0.95,
    reference: str = "the absent agents' reference",
    unit: str = "team return",
) -> Credit:
    """Shapley values of a function game (bool coalitions (m, n) -> values (m,)) or of an episode game.

    Args:
        game: the game; a plain function is called on many coalitions at once.
        num_agents: n.
        episodes: for an episode game, how many paired episodes (or which).
        exact_up_to: teams up to this size are enumerated, larger ones sampled; at most 12. Default: 10 for a function, 5 with episodes.
        budget: for a sampled function game, how often a value may be asked for, those known already included.
        rings: for a sampled episode game, how many draws; the episodes are divided among them as evenly as they go.
        sampler: what a draw is: "rings", "cyclic", "plain", "antithetic" or "stratified" (sampling.py).
        generator: draws the random orders; default: a new one with seed 0, so the same call gives the same answer.
        bound: width R of one episode's possible team return, if known: exact episode credit then has a guaranteed interval.
        confidence: of each agent's own interval.
        reference: what absent agents do, in words; printed with the result.
        unit: unit of the values, in words.

    Returns:
        Credit; `value` sums to `total` exactly (stratified: on average).
        Intervals are over rings, over episodes, or both: see `resampled`.

    Raises:
        ValueError: a bad count, a game that returns the wrong shape or NaN, or too few episodes for an interval.
    """
    check_num_agents(num_agents)
    if num_agents == 1:
        exact_up_to = 1
    elif exact_up_to is None:
        exact_up_to = 5 if isinstance(game, EpisodeGame) else 10
    if exact_up_to < 0:
        raise ValueError(f"exact_up_to is {exact_up_to}; it is a number of agents, 0 for sampling always")
    if exact_up_to >= num_agents:
        refuse_enumeration(num_agents)
    check_sampler(sampler)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    words = {"estimand": _ESTIMAND, "reference": reference, "unit": unit}
    if isinstance(game, EpisodeGame):
        if game.num_agents != num_agents:
            raise ValueError(f"num_agents is {num_agents}, but the episode game has {game.num_agents} agents")
        indices = episode_indices(episodes)
        if num_agents <= exact_up_to:
            method = "exact Shapley value of every episode (all coalitions on the same seeds), averaged"
            return exact_episodes(game, indices, shapley_from_values, bound, confidence, {**words, "method": method})
        return _sampled_episodes(game, indices, rings, sampler, generator, confidence, words)
    if episodes is not None:
        raise ValueError(
            "`episodes` was given, but the game is a plain function of coalitions; wrap a simulator in EpisodeGame(simulate, num_agents)"
        )
    cached = CachedGame(game, num_agents)
    if num_agents <= exact_up_to:
        return exact_function(cached, shapley_from_values, {**words, "method": "exact Shapley value (all coalitions)"})
    return _sampled_function(cached, budget, sampler, generator, confidence, words)


def exact_function(game: CachedGame, index: Index, words: dict[str, str]) -> Credit:
    """An index of a function game from all its coalitions."""
    values = game(all_coalitions(game.num_agents))
    return Credit(
        value=index(values),
        low=None,
        high=None,
        total=float(values[-1] - values[0]),
        evaluations=game.evaluations,
        episodes=0,
        env_steps=0,
        resampled="nothing: the value is exact",
        approximate=False,
        **words,
    )


def _sampled_function(
    game: CachedGame, budget: int, sampler: Sampler, generator: torch.Generator, confidence: float, words: dict[str, str]
) -> Credit:
    n = game.num_agents
    asked = calls(sampler, n)
    count = budget // asked
    if count < 2:
        cheaper = f'; or take sampler="plain", {n + 1} a draw' if budget >= _FEW * (n + 1) else ""
        raise ValueError(
            f"budget is {budget}; sampling {n} agents needs at least {2 * asked} evaluations (two draws of {sampler}): raise it{cheaper}"
        )
    samples, seen = [], []
    for _ in range(count):
        one = draw(sampler, n, generator)
        values = game(one.coalitions)
        seen.append(values)
        samples.append(one.combine(values))
    per_draw, total = torch.stack(samples, -1), float(seen[0][-1] - seen[0][-2])
    low, high, how = _interval(per_draw, sampler, torch.cat(seen), confidence)
    return Credit(
        value=per_draw.mean(-1),
        low=low,
        high=high,
        method=f"sampled Shapley value ({HOW[sampler]})",
        total=total,
        evaluations=game.evaluations,
        episodes=0,
        env_steps=0,
        resampled=f"{count} draws; {how}",
        approximate=True,
        **words,
    )


def _interval(per_draw: Float[Tensor, "agent sample"], sampler: Sampler, seen: Tensor, confidence: float) -> tuple[Tensor, Tensor, str]:
    """Each agent's interval over draws, and the bound in words.

    Single orders meet an agent's rare large gain seldom, so they get one imaginary draw as far off as any two values seen.
    """
    worst = float(seen.max() - seen.min()) if sampler in ("plain", "antithetic") else None
    low, high, how = mean_interval(per_draw, worst=worst or None, confidence=confidence)
    few = "" if per_draw.shape[-1] >= _FEW else f"; rough, since there are fewer than {_FEW} draws"
    return low, high, how + few


def exact_episodes(
    game: EpisodeGame, episodes: Tensor, index: Index, bound: float | None, confidence: float, words: dict[str, str]
) -> Credit:
    """The mean over episodes of an index of each episode's game, all coalitions played on the same seeds."""
    steps, evaluations = game.env_steps, game.evaluations
    values = game.play(all_coalitions(game.num_agents), episodes)
    per_episode = index(values)
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


def _sampled_episodes(
    game: EpisodeGame,
    episodes: Tensor,
    rings: int,
    sampler: Sampler,
    generator: torch.Generator,
    confidence: float,
    words: dict[str, str],
) -> Credit:
    if rings < 2:
        raise ValueError(f"rings is {rings}; an interval over draws needs at least 2")
    rings = min(rings, len(episodes))
    steps, evaluations = game.env_steps, game.evaluations
    samples, totals, seen = [], [], []
    for group in episodes.tensor_split(rings):
        one = draw(sampler, game.num_agents, generator)
        values = game.play(one.coalitions, group).mean(-1)
        seen.append(values)
        samples.append(one.combine(values))
        totals.append(values[-1] - values[-2])
    per_draw = torch.stack(samples, -1)
    low, high, how = _interval(per_draw, sampler, torch.cat(seen), confidence)
    return Credit(
        value=per_draw.mean(-1),
        low=low,
        high=high,
        method=f"sampled Shapley value ({HOW[sampler]})",
        total=float(torch.stack(totals).mean()),
        evaluations=game.evaluations - evaluations,
        episodes=len(episodes),
        env_steps=game.env_steps - steps,
        resampled=f"{len(episodes)} paired episodes in {rings} groups, a draw each; {how}",
        approximate=True,
        **words,
    )
