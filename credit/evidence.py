"""Evidence about a small mean, gathered pair by pair and looked at whenever one likes.

D_k is a paired difference of team returns, in [-R, R]. A gambler who doubts "mean >= delta" starts with capital 1 and stakes
a part of it on every pair:

    capital_k = prod_{j<=k} 1 + c (delta - D_j) / (R - delta)

If the mean is delta or more, no stake c in [0, 1] makes capital grow in expectation, and P(capital ever reaches 1/alpha) <= alpha
(Ville). So capital is evidence, an *e-process*: stop when it reaches 1/alpha, stop for any other reason, go on later; the error rate
stays. One gambler per stake c on a fixed grid, half of the starting capital with c = 1, and the rest spread evenly: their joint
capital is an e-process too, does not depend on the order of pairs, and loses at most a factor 2 to the boldest, which
is the best one while every D is 0. Theory: Waudby-Smith and Ramdas, arXiv:2010.09686.

Range unknown: the same claims by an *asymptotic* e-process (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, arXiv:2103.06476), a mixture
over positive drifts of the normal likelihood ratio with the variance estimated. One imaginary pair at the worst plausible D is added;
without it, pairs that are all 0 would have variance 0. Approximate, and silent before `MIN_APPROXIMATE_PAIRS`.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .intervals import check_confidence, within_bound

NUM_BETS = 10
MIN_APPROXIMATE_PAIRS = 64
_TUNED_FOR = 64  # pairs at which the asymptotic bound is about tightest
Side = Literal["below", "above"]


@cache
def _stakes() -> tuple[Tensor, Tensor]:
    """Stakes c = 2^(-j/2), and the log of the capital each begins with."""
    share = torch.full((NUM_BETS,), 0.5 / (NUM_BETS - 1), dtype=torch.float64)
    share[0] = 0.5
    return 2.0 ** (-torch.arange(NUM_BETS, dtype=torch.float64) / 2), share.log()


def _log_factors(differences: Tensor, delta: Tensor, bound: float, side: Side) -> Float[Tensor, "*claim pair bet"]:
    """log(1 + c x) for each pair and stake, x in [-1, inf) the pair's gain at full stake; delta (*claim, 1) broadcasts over pairs."""
    stakes, _ = _stakes()
    gain = (delta - differences) / (bound - delta) if side == "below" else (differences - delta) / (bound + delta)
    return torch.log1p(stakes * gain.clamp_min(-1).unsqueeze(-1))


def log_e_path(differences: Float[Tensor, "*claim pair"], delta: float, bound: float, side: Side) -> Float[Tensor, "*claim pair"]:
    """log e after each pair, for the claim that the mean is below (or above) `delta`, differences in [-bound, bound]."""
    differences = within_bound(differences, bound)
    _, log_share = _stakes()
    wealth = _log_factors(differences, torch.tensor(delta, dtype=torch.float64), bound, side).cumsum(-2)
    return torch.logsumexp(wealth + log_share, -1)


@dataclass(frozen=True)
class Evidence:
    """All that is remembered of the pairs seen, for any number of claims at once (one per agent and reference)."""

    delta: Float[Tensor, "*claim"]
    """The margin each mean is compared with, in team return."""
    bound: float
    """R: the width of one episode's possible team return; where `approximate`, the worst plausible difference."""
    approximate: bool
    """True where the range is unknown and the e-values are asymptotic."""
    count: Int[Tensor, "*claim"]
    """Pairs seen."""
    total: Float[Tensor, "*claim"]
    """Sum of differences."""
    total_square: Float[Tensor, "*claim"]
    """Sum of squared differences."""
    log_wealth_below: Float[Tensor, "*claim bet"]
    """Log capital of each stake against "mean >= delta"."""
    log_wealth_above: Float[Tensor, "*claim bet"]
    """Log capital of each stake against "mean <= delta"."""


def begin(delta: Float[Tensor, "*claim"], bound: float, *, approximate: bool = False) -> Evidence:
    """No pairs yet: every e-value is 1. Raises ValueError unless |delta| < bound (bound > 0 if approximate)."""
    delta = delta.to(torch.float64)
    if not bound > 0 or (not approximate and bool((delta.abs() >= bound).any())):
        raise ValueError(f"margins {delta.flatten().tolist()} must be smaller than the width of one episode's team return, {bound:g}")
    zeros = torch.zeros_like(delta)
    wealth = zeros.unsqueeze(-1).repeat_interleave(NUM_BETS, -1)
    return Evidence(delta, bound, approximate, zeros.to(torch.int64), zeros, zeros, wealth, wealth)


def update(evidence: Evidence, differences: Float[Tensor, "*claim pair"], valid: Bool[Tensor, "*claim"] | None = None) -> Evidence:
    """The evidence after more pairs; claims where `valid` is False stay as they are, whatever their row holds."""
    valid = torch.ones_like(evidence.count, dtype=torch.bool) if valid is None else valid
    differences = torch.where(valid.unsqueeze(-1), differences.to(torch.float64), 0.0)
    if bool(differences.isnan().any()):
        raise ValueError("a paired difference is NaN; every chosen agent needs a team return for every pair and reference that applies")
    grown = replace(
        evidence,
        count=evidence.count + differences.shape[-1] * valid,
        total=evidence.total + differences.sum(-1),
        total_square=evidence.total_square + differences.square().sum(-1),
    )
    if evidence.approximate:
        return grown
    differences = within_bound(differences, evidence.bound)
    delta = evidence.delta.unsqueeze(-1)
    below, above = (_log_factors(differences, delta, evidence.bound, side).sum(-2) for side in ("below", "above"))
    chosen = valid.unsqueeze(-1)
    return replace(
        grown,
        log_wealth_below=evidence.log_wealth_below + torch.where(chosen, below, 0.0),
        log_wealth_above=evidence.log_wealth_above + torch.where(chosen, above, 0.0),
    )


def at(evidence: Evidence, row: int) -> Evidence:
    """The evidence of one row of the first claim axis."""
    per_claim = {item.name: getattr(evidence, item.name)[row] for item in fields(evidence) if item.name not in ("bound", "approximate")}
    return replace(evidence, **per_claim)


def scaled(evidence: Evidence, factors: Float[Tensor, " factor"]) -> Evidence:
    """What the evidence would be if so many times as many pairs like those seen had been played: a forecast, not evidence.

    Its claims have a first axis more, one entry per factor.
    """
    each = factors.view(-1, *(1,) * evidence.count.dim())
    return replace(
        evidence,
        delta=evidence.delta.expand(len(factors), *evidence.delta.shape),
        count=(evidence.count * each).round().to(torch.int64),
        total=evidence.total * each,
        total_square=evidence.total_square * each,
        log_wealth_below=evidence.log_wealth_below * each.unsqueeze(-1),
        log_wealth_above=evidence.log_wealth_above * each.unsqueeze(-1),
    )


def _asymptotic_log_e(count: Tensor, total: Tensor, total_square: Tensor, m: Tensor, worst: float) -> Tensor:
    """log of the half-normal mixture of exp(drift S - drift^2 V / 2), S = sum (m - D) / sd, V = pairs: evidence for "mean < m"."""
    pairs, total = count + 1.0, total + worst
    variance = (total_square + worst**2 - total.square() / pairs) / pairs
    score = (pairs * m - total) / variance.clamp_min(1e-300).sqrt()
    rho_square = 8 / _TUNED_FOR
    spread = 1 + rho_square * pairs
    drift = score * (rho_square / spread).sqrt()
    return math.log(2) - spread.log() / 2 + drift.square() / 2 + torch.special.log_ndtr(drift)


def log_e_below(evidence: Evidence) -> Float[Tensor, "*claim"]:
    """log e for "mean < delta"; reached ln(1/alpha): claim it at error rate alpha, whenever and why ever one looked."""
    if evidence.approximate:
        log_e = _asymptotic_log_e(evidence.count, evidence.total, evidence.total_square, evidence.delta, evidence.bound)
        return torch.where(evidence.count >= MIN_APPROXIMATE_PAIRS, log_e, 0.0)
    return torch.logsumexp(evidence.log_wealth_below + _stakes()[1], -1)


def ranking(evidence: Evidence) -> Float[Tensor, "*claim"]:
    """`log_e_below`, also of fewer pairs than make approximate evidence: no evidence then, but an order of who looks smallest."""
    if evidence.approximate:
        return _asymptotic_log_e(evidence.count, evidence.total, evidence.total_square, evidence.delta, evidence.bound)
    return log_e_below(evidence)


def log_e_above(evidence: Evidence) -> Float[Tensor, "*claim"]:
    """log e for "mean > delta"."""
    if evidence.approximate:
        log_e = _asymptotic_log_e(evidence.count, -evidence.total, evidence.total_square, -evidence.delta, evidence.bound)
        return torch.where(evidence.count >= MIN_APPROXIMATE_PAIRS, log_e, 0.0)
    return torch.logsumexp(evidence.log_wealth_above + _stakes()[1], -1)


def further_needed(evidence: Evidence, log_e: float, each: Float[Tensor, "*claim"] | float = 0.0) -> Float[Tensor, "*claim"]:
    """About how many further pairs, all with the difference `each`, bring the evidence for "mean < delta" to `log_e` (range known).

    By the best single stake, so too many by a few; the whole mixture is a little ahead of it. inf where such pairs are no such evidence.
    """
    stakes, log_share = _stakes()
    gain = (evidence.delta - torch.as_tensor(each, dtype=torch.float64)) / (evidence.bound - evidence.delta)
    growth = torch.log1p(stakes * gain.unsqueeze(-1)).clamp_min(0)
    missing = (log_e - evidence.log_wealth_below - log_share).clamp_min(0)
    return torch.where(missing > 0, missing / growth, 0.0).amin(-1).ceil()  # 0 where none is missing, though nothing grows


def floor_pairs(delta: float, bound: float, alpha: float) -> int:
    """Pairs below which no test of this kind can say "below delta" while no D is negative: ceil(ln(1/alpha) / -ln(1 - delta/bound)).

    All D 0 is the fastest of these. This is the rule of three: fewer pairs cannot exclude a rare event that decides an episode. Where
    the team does better without the agent (D below 0) evidence comes sooner.
    """
    if not 0 < delta < bound:
        raise ValueError(f"delta is {delta:g}; it must lie above 0 and below the width of one episode's team return, {bound:g}")
    check_confidence(alpha)
    return math.ceil(math.log(1 / alpha) / -math.log1p(-delta / bound))


def _upper(differences: Tensor, bound: float, alpha: float, approximate: bool) -> Tensor:
    """The smallest m for which "mean < m" has evidence 1/alpha. The evidence rises with m (every factor does), so bisection is exact."""
    mean = differences.mean(-1)
    count = torch.full_like(mean, differences.shape[-1])
    low, high = mean, mean + 100 * (bound + differences.abs().amax(-1)) if approximate else torch.full_like(mean, bound)
    for _ in range(40):
        m = (low + high) / 2
        if approximate:
            log_e = _asymptotic_log_e(count, differences.sum(-1), differences.square().sum(-1), m, bound)
        else:
            below_bound = m.clamp_max(bound * (1 - 1e-12)).unsqueeze(-1)
            log_e = torch.logsumexp(_log_factors(differences, below_bound, bound, "below").sum(-2) + _stakes()[1], -1)
        shown = log_e >= math.log(1 / alpha)
        low, high = torch.where(shown, low, m), torch.where(shown, m, high)
    return high


def confidence_sequence(
    differences: Float[Tensor, "*claim pair"], bound: float, *, confidence: float = 0.95, approximate: bool = False
) -> tuple[Float[Tensor, "*claim"], Float[Tensor, "*claim"]]:
    """(low, high): the means that the same e-processes cannot refute, each side at (1 - confidence) / 2.

    Anytime valid: with probability `confidence` it holds the mean after every pair at once, so stopping when it looks
    good is allowed. Wider than an interval for a fixed number of pairs. `bound` as in `Evidence`.
    """
    check_confidence(confidence)
    differences = differences.to(torch.float64) if approximate else within_bound(differences, bound)
    alpha = (1 - confidence) / 2
    upper = _upper(torch.stack([-differences, differences]), bound, alpha, approximate)  # the lower end is the mirror image's upper one
    return -upper[0], upper[1]


def e_holm(log_e: Float[Tensor, " claim"], alpha: float) -> Bool[Tensor, " claim"]:
    """Which claims hold together with P(any false one) <= alpha (Holm 1979 on p = 1/e, valid under any dependence).

    Sorted from the strongest, the k-th of n claims needs e >= (n - k + 1) / alpha, and the first that fails ends it. Since 1/e is
    valid at every stopping time, claims may be stopped one by one, each with its e-value frozen.
    """
    order = log_e.argsort(descending=True, stable=True)
    needed = torch.log(torch.arange(len(log_e), 0, -1, dtype=torch.float64) / alpha)
    accepted = (log_e[order] >= needed).to(torch.int64).cumprod(0).to(torch.bool)
    return torch.zeros_like(accepted).scatter(0, order, accepted)
