"""Which credit an additive fit finds: that depends on which coalitions it has seen.

    minimise  sum_C w(C) (v(C) - b - sum_{i in C} a_i)^2

VDN is such a fit of the team's value in one-step games: a_i is agent i's utility gap between its policy and the reference. The fit is

    the Banzhaf value         when all coalitions are alike (w = 1: everybody flips a coin)
    leave-one-out, nearly     when almost always everybody is in
    the Shapley value         under the Shapley kernel w(C) = (n - 1) / (C(n, s) s (n - s)), s = |C|, with b = v(empty) and
                              sum_i a_i = v(N) - v(empty) held fast (Charnes et al. 1988; Lundberg and Lee, arXiv:1705.07874)

The kernel is infinite at the empty and the full team, and data cannot be. What a fit with free b finds instead, for sizes s drawn
with probabilities p_s and members uniform within a size:

    a_i - a_j = phi_i - phi_j   exactly, if p_s is proportional to 1 / (s (n - s)) for 0 < s < n, whatever p_0 and p_n are;
    sum_i a_i = n Cov(S, v) / Var(S), the slope of v's mean by size: the end points get the share `weight_of_ends` of it.

(The coefficients' difference is sum over C without i, j of w_{s+1} (v(C + i) - v(C + j)) / P(i in, j out), and the kernel makes that
weight s! (n - s - 2)! / (n - 1)!, Shapley's own.) So such a fit ranks the agents as Shapley does and misses by one number that is
the same for all of them, which `with_total` puts right; no distribution that has every size in it misses by none, n > 2.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .base import all_coalitions


@dataclass(frozen=True)
class AdditiveFit:
    """v(C) = base + the gains of C's members, as well as that goes."""

    base: Float[Tensor, ""]
    """b: the fitted value of the empty team."""
    gain: Float[Tensor, " agent"]
    """a_i: what joining adds, in the unit of the values."""
    error: Float[Tensor, ""]
    """Root of the weighted mean square of what the fit leaves over; 0 for an additive game."""


def kernel_weights(coalitions: Bool[Tensor, "coalition agent"]) -> Float[Tensor, " coalition"]:
    """(n - 1) / (C(n, s) s (n - s)) of each coalition of size s; infinite for the empty and the full one."""
    n = coalitions.shape[1]
    size = coalitions.sum(1).to(torch.float64)
    log_ways = torch.lgamma(torch.tensor(n + 1.0, dtype=torch.float64)) - torch.lgamma(size + 1) - torch.lgamma(n - size + 1)
    return (n - 1) / (log_ways.exp() * size * (n - size))


def size_probabilities(num_agents: int, ends: float = 0.0) -> Float[Tensor, " size"]:
    """P(|C| = s), s = 0..n: the Shapley kernel's 1 / (s (n - s)) between the ends; `ends` is the empty and the full team's, half each."""
    if num_agents < 1 or not 0 <= ends <= 1:
        raise ValueError(f"num_agents {num_agents} must be at least 1 and ends {ends} must lie in [0, 1]")
    if num_agents == 1 and ends < 1:
        raise ValueError("one agent alone has no coalition but the empty and the full one: give ends 1")
    size = torch.arange(1, num_agents, dtype=torch.float64)
    between = 1 / (size * (num_agents - size))
    half = torch.tensor([ends / 2], dtype=torch.float64)
    return torch.cat([half, (1 - ends) * between / between.sum().clamp_min(1e-300), half])


def size_weights(probabilities: Float[Tensor, " size"]) -> Float[Tensor, " coalition"]:
    """The probability of each of the 2^n coalitions (in the order of `all_coalitions`), members uniform within a size."""
    size = all_coalitions(len(probabilities) - 1).sum(1)
    return probabilities[size] / torch.bincount(size)[size]


def joining_weights(joins: Float[Tensor, " agent"]) -> Float[Tensor, " coalition"]:
    """The probability of each of the 2^n coalitions where agent i joins with probability `joins[i]`, whatever the others do."""
    inside = all_coalitions(len(joins))
    return torch.where(inside, joins, 1 - joins).to(torch.float64).prod(1)


def draw_size(number: Float[Tensor, "*batch"], probabilities: Float[Tensor, " size"]) -> Int[Tensor, "*batch"]:
    """The size that a number in [0, 1) picks, by the inverse of the cumulated probabilities."""
    return (number.unsqueeze(-1) >= probabilities.cumsum(0)[:-1]).sum(-1)


def draw_members(scores: Float[Tensor, "*batch agent"], size: Int[Tensor, "*batch"]) -> Bool[Tensor, "*batch agent"]:
    """The `size` agents of the lowest scores (independent uniform numbers: each coalition of that size alike)."""
    rank = (scores.unsqueeze(-2) < scores.unsqueeze(-1)).sum(-1)
    return rank < size.unsqueeze(-1)


def shapley_kernel_coalitions(
    number: int, num_agents: int, generator: torch.Generator, *, ends: float = 0.0
) -> Bool[Tensor, "coalition agent"]:
    """Coalitions of the Shapley kernel: sizes as `size_probabilities` has them, uniform within a size.

    Args:
        number: how many.
        num_agents: n.
        generator: draws them.
        ends: share of empty and full teams, half each. The kernel's own weight there is infinite: 0 leaves them to a fit that pins
            them (`pinned_fit`), more brings a free fit's sum nearer to v(N) - v(empty) (`weight_of_ends`).
    """
    numbers = torch.rand(number, num_agents + 1, generator=generator, dtype=torch.float64)
    return draw_members(numbers[:, 1:], draw_size(numbers[:, 0], size_probabilities(num_agents, ends)))


def weight_of_ends(num_agents: int, ends: float) -> float:
    """Which share of the sum of a free fit's gains is v(N) - v(empty); the rest is the slope of the sizes between.

    ends n^2/4 / (ends n^2/4 + (1 - ends) V), V the variance of the size between. 1 is Shapley's own sum; for 6 agents and
    ends 0.5 it is 0.79.
    """
    if num_agents == 2:
        return 1.0  # the one size between lies in the middle and has no slope
    size = torch.arange(num_agents + 1, dtype=torch.float64) - num_agents / 2
    between = float((size.square() * size_probabilities(num_agents, 0.0)).sum())
    outer = ends * num_agents**2 / 4
    return outer / (outer + (1 - ends) * between)


def additive_fit(
    coalitions: Bool[Tensor, "coalition agent"],
    values: Float[Tensor, " coalition"],
    weights: Float[Tensor, " coalition"] | None = None,
) -> AdditiveFit:
    """Weighted least squares with a free constant.

    Args:
        coalitions: who was in; repeats are fine.
        values: what the team got.
        weights: of each row, at least 0 and finite; None: all alike.

    Raises:
        ValueError: a weight that is none, or coalitions that do not tell the agents apart (the sentence names an agent).
    """
    x, y, w = _checked(coalitions, values, weights)
    total = w.sum()
    centre, level = (w[:, None] * x).sum(0) / total, (w * y).sum() / total
    scale = w.sqrt()
    design = scale[:, None] * (x - centre)
    _check_rank(design, centre)
    gain = torch.linalg.lstsq(design, (scale * (y - level)).unsqueeze(1), driver="gelsd").solution.squeeze(1)
    base = level - centre @ gain
    return AdditiveFit(base, gain, _left_over(x, y, w, base, gain))


def pinned_fit(
    coalitions: Bool[Tensor, "coalition agent"],
    values: Float[Tensor, " coalition"],
    weights: Float[Tensor, " coalition"] | None = None,
    *,
    empty: float,
    full: float,
) -> AdditiveFit:
    """Weighted least squares with base v(empty) and gains that add up to v(N) - v(empty).

    With `kernel_weights` on all coalitions between, or unweighted on draws from `shapley_kernel_coalitions`, the gains are (or estimate)
    the Shapley value. Rows of the empty and the full team say nothing more and are left out; errors as in `additive_fit`.
    """
    between = coalitions.any(1) & ~coalitions.all(1)
    n, total = coalitions.shape[1], torch.tensor(full - empty, dtype=torch.float64)
    if n == 1:
        return AdditiveFit(torch.tensor(empty, dtype=torch.float64), total.view(1), torch.zeros((), dtype=torch.float64))
    x, y, w = _checked(coalitions[between], values[between], None if weights is None else weights[between])
    scale = w.sqrt()
    design = scale[:, None] * (x[:, :-1] - x[:, -1:])  # the last gain is what the others leave of the total
    _check_rank(design, (w[:, None] * x).sum(0) / w.sum())
    aim = scale * (y - empty - total * x[:, -1])
    others = torch.linalg.lstsq(design, aim.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    gain = torch.cat([others, (total - others.sum()).view(1)])
    base = torch.tensor(empty, dtype=torch.float64)
    return AdditiveFit(base, gain, _left_over(x, y, w, base, gain))


def with_total(gain: Float[Tensor, "*batch agent"], total: float | Float[Tensor, "*batch"]) -> Float[Tensor, "*batch agent"]:
    """The gains moved by one number, the same for all agents, so that they add up to `total` (v(N) - v(empty), measured apart)."""
    missing = torch.as_tensor(total, dtype=gain.dtype) - gain.sum(-1)
    return gain + (missing / gain.shape[-1]).unsqueeze(-1)


def _checked(coalitions: Tensor, values: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    w = torch.ones(len(values), dtype=torch.float64) if weights is None else weights.to(torch.float64)
    if not bool(w.isfinite().all()) or bool((w < 0).any()) or not bool((w > 0).any()):
        raise ValueError("weights must be finite, at least 0 and not all 0 (the empty and the full team of the Shapley kernel are pinned)")
    return coalitions.to(torch.float64), values.to(torch.float64), w


def _check_rank(design: Tensor, joined: Tensor) -> None:
    """Refuses data on which some gain could be anything."""
    if int(torch.linalg.matrix_rank(design)) == design.shape[1]:
        return
    fixed = ((joined == 0) | (joined == 1)).nonzero().flatten().tolist()
    who = f"agent {fixed[0]} is {'always' if joined[fixed[0]] == 1 else 'never'} in" if fixed else "who joins follows from who else does"
    raise ValueError(f"the coalitions do not tell the agents apart: {who}; give coalitions in which each joins without the others")


def _left_over(x: Tensor, y: Tensor, w: Tensor, base: Tensor, gain: Tensor) -> Tensor:
    return ((w * (y - base - x @ gain).square()).sum() / w.sum()).sqrt()
