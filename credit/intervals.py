"""Intervals for a mean: how far the average of a few episodes may lie from the truth.

Three bounds, best first:

- `betting_interval`: the range of one sample is known. Coverage is guaranteed for every distribution within the range and
  every sample size, rare decisive events included (hedged capital, Waudby-Smith and Ramdas, arXiv:2010.09686).
- `t_interval(..., worst=w)`: the range is unknown, but no sample is expected beyond w. One imaginary sample at the worst
  plausible value is added before each end is computed. Without it the t bound is badly wrong for rare events: if a sample is
  1 with probability 0.05 and else 0, twenty samples are all 0 in 36% of cases and the plain interval is [0, 0].
- `t_interval(...)`: good for samples that are close to normal.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

_PRIOR_VARIANCE = 0.05  # of bound^2: what a betting interval supposes before the first sample; any value is valid, this one is short
_LARGEST_STAKE = 0.9  # of the stake that one worst sample would wipe out


def _t_central_mass(t: float, df: int) -> float:
    """P(|T| <= t) for Student's t with `df` degrees of freedom: the finite trigonometric series (Abramowitz and Stegun 26.7.3-4)."""
    theta = math.atan(t / math.sqrt(df))
    cos_square = math.cos(theta) ** 2
    odd = df % 2
    term, total = (math.cos(theta), 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, df, 2):
        total += term
        term *= cos_square * k / (k + 1)
    inner = math.sin(theta) * total
    return 2 / math.pi * (theta + inner) if odd else inner


@lru_cache(maxsize=256)
def t_quantile(df: int, confidence: float = 0.95) -> float:
    """The two-sided quantile: P(|T| <= t_quantile) = confidence. 12.706 for df 1, 1.960 for many."""
    assert df >= 1, df
    low, high = 0.0, 1.0
    while _t_central_mass(high, df) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_central_mass(middle, df) < confidence else (low, middle)
    return high


def check_confidence(confidence: float) -> None:
    """Refuses what is not a probability, such as 95."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it is a probability between 0 and 1, usually 0.95")


def within_bound(differences: Float[Tensor, "*shape"], bound: "float | Tensor") -> Float[Tensor, "*shape"]:
    """`differences` in float64, rounding errors beyond +-bound removed; anything further out is the caller's mistake."""
    differences = differences.to(torch.float64)
    limit = torch.as_tensor(bound, dtype=torch.float64)
    if differences.numel() and not bool((differences.abs() <= limit * (1 + 1e-6)).all()):
        raise ValueError(
            f"a paired difference of size {differences.abs().max():g} lies outside +-{limit.max():g}, the declared width "
            "of one episode's team return; correct the task's return_range, or declare it unknown (the interval is then approximate)"
        )
    return differences.clamp(-limit, limit)


def t_interval(
    samples: Float[Tensor, "*batch sample"], *, worst: float | None = None, confidence: float = 0.95
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """mean +- t_quantile * sd / sqrt(samples); with `worst`, one imaginary sample at +worst (upper end) or -worst (lower end) is added.

    Approximate: exact for normal samples without `worst`, conservative with it.
    """
    check_confidence(confidence)
    samples = samples.to(torch.float64)
    if samples.shape[-1] < 2:
        raise ValueError(f"{samples.shape[-1]} sample(s) give no interval: at least 2 are needed")
    ends = []
    for side in (-1, 1):
        widened = samples if worst is None else torch.cat([samples, torch.full_like(samples[..., :1], side * worst)], -1)
        count = widened.shape[-1]
        ends.append(widened.mean(-1) + side * t_quantile(count - 1, confidence) * widened.std(-1) / math.sqrt(count))
    return ends[0], ends[1]


def _betting_upper(samples: Tensor, bound: float, alpha: float) -> Tensor:
    """The smallest m at which a gambler who bets that the mean is below m has at some time multiplied their capital by 1/alpha.

        capital_k(m) = prod_{j<=k} 1 + stake_j(m) (m - x_j)
        stake_j(m) = min(sqrt(2 ln(1/alpha) / (count variance_j)), 0.9 / (bound - m))

    variance_j uses samples before j only, so the capital is a martingale when the mean is m. Every factor rises with m: bisection is exact.
    """
    count = samples.shape[-1]
    seen = torch.arange(1, count + 1, dtype=torch.float64)
    prior = _PRIOR_VARIANCE * bound**2
    variance = (prior + (samples - samples.cumsum(-1) / (seen + 1)).square().cumsum(-1)) / (seen + 1)
    before = torch.cat([torch.full_like(variance[..., :1], prior), variance[..., :-1]], -1)
    wanted = (2 * math.log(1 / alpha) / (count * before)).sqrt()
    low, high = samples.mean(-1), torch.full_like(samples[..., 0], bound)
    for _ in range(40):
        m = ((low + high) / 2).unsqueeze(-1)
        stake = torch.minimum(wanted, _LARGEST_STAKE / (bound - m).clamp_min(1e-12 * bound))
        won = torch.log1p(stake * (m - samples)).cumsum(-1).amax(-1) >= math.log(1 / alpha)
        low, high = torch.where(won, low, m.squeeze(-1)), torch.where(won, m.squeeze(-1), high)
    return high


def betting_interval(
    samples: Float[Tensor, "*batch sample"], bound: float, *, confidence: float = 0.95
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """An interval for the mean of independent samples in [-bound, bound], valid for every such distribution and every count.

    Its half width is about sqrt(2 ln(2/alpha)) sd / sqrt(count), plus about bound ln(2/alpha) / count: with every sample 0 it
    is not zero, since a rare large value could have been missed. Holds for a number of samples fixed beforehand.
    """
    check_confidence(confidence)
    if not bound > 0:
        raise ValueError(f"bound is {bound}; it is the width of one episode's possible team return and must be above 0")
    samples = within_bound(samples, bound)
    alpha = (1 - confidence) / 2
    return -_betting_upper(-samples, bound, alpha), _betting_upper(samples, bound, alpha)


def mean_interval(
    samples: Float[Tensor, "*batch sample"], *, bound: float | None = None, worst: float | None = None, confidence: float = 0.95
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"], str]:
    """(low, high, the bound used in words): betting where the range is known, t with one imaginary sample at `worst`, or plain t."""
    percent = f"{100 * confidence:g}%"
    if bound is not None:
        low, high = betting_interval(samples, bound, confidence=confidence)
        return low, high, f"betting bound, {percent} guaranteed for differences within +-{bound:g}"
    low, high = t_interval(samples, worst=worst, confidence=confidence)
    added = "" if worst is None else f" with one imaginary sample at the worst return difference seen, +-{worst:g}"
    return low, high, f"t{added}, {percent} approximate"
