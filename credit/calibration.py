"""Does a critic deserve belief? What it claims against what then happened, over decisions of played episodes.

Two comparisons, one set of figures. *Returns*: Q(s_t, u_t) against the discounted return that followed. A critic that knows
no more than the time left can pass this one. *Forks*: one action of one agent is replaced, the rest of the episode is played
again, and the real change of the return is set against the change the critic claimed. That is the quantity credit is made of.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

FLOOR = 0.5
"""Least explained variance of returns, and least correlation with real changes, of a critic that is believed."""
LEAST_EPISODES = 8
"""Episodes that replaced actions come from before a critic is believed: two actions always correlate by 1 or -1."""
_ROUNDING = 1e-12  # variance, as a share of the mean square, that is taken for none


@dataclass(frozen=True)
class Calibration:
    """Claims against outcomes. Figures that a constant leaves undefined are NaN."""

    explained_variance: float
    """1 - Var(outcome - claim) / Var(outcome): 1 is perfect, 0 is what a constant gets. A constant bias is not seen by it."""
    explained_variance_interval: tuple[float, float] | None
    """95%; whole episodes were resampled, since decisions of one episode share its luck."""
    correlation: float
    """Of claim and outcome, -1 to 1."""
    correlation_interval: tuple[float, float] | None
    """Likewise."""
    slope: float
    """Of the least-squares line outcome = slope * claim + intercept; 1 is right, below 1 the claims are too far apart."""
    intercept: float
    """Of that line, in the unit of the outcome."""
    bias: float
    """mean(claim - outcome): above 0 the critic promises too much."""
    samples: int
    episodes: int


def calibrate(
    claim: Float[Tensor, " sample"],
    outcome: Float[Tensor, " sample"],
    episode: Int[Tensor, " sample"],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Calibration:
    """The figures of `Calibration`; `episode` says which samples belong together (any integers).

    ValueError without a single sample. Intervals: percentile bootstrap over episodes, None with fewer than two.
    """
    if not len(claim):
        raise ValueError("no decision to compare: calibration needs at least one claim and its outcome")
    claim, outcome = claim.to(torch.float64), outcome.to(torch.float64)
    at, of = claim.mean(), outcome.mean()
    x, y = claim - at, outcome - of  # sums of squares about the means keep their digits
    _, cluster = episode.unique(return_inverse=True)
    count = int(cluster.max()) + 1
    sums = torch.zeros(count, 6, dtype=torch.float64)
    sums.index_add_(0, cluster, torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], -1))
    none = _ROUNDING * torch.stack([claim.square().mean(), outcome.square().mean()])
    explained, correlation, slope = _figures(sums.sum(0), none).tolist()
    ends = _bootstrap(sums, none, resamples, seed) if count > 1 else (None, None)
    return Calibration(
        explained_variance=explained,
        explained_variance_interval=ends[0],
        correlation=correlation,
        correlation_interval=ends[1],
        slope=slope,
        intercept=float(of - slope * at),
        bias=float(at - of),
        samples=len(claim),
        episodes=count,
    )


def _figures(sums: Float[Tensor, "*batch 6"], none: Float[Tensor, "2"]) -> Float[Tensor, "*batch 3"]:
    """(explained, correlation, slope) from sums of 1, x, y, xx, yy, xy; NaN where a variance is `none`."""
    number, x, y, xx, yy, xy = sums.unbind(-1)
    x, y = x / number, y / number
    var_x, var_y, covariance = xx / number - x * x, yy / number - y * y, xy / number - x * y
    var_x, var_y = (torch.where(var > floor, var, 0.0) for var, floor in ((var_x, none[0]), (var_y, none[1])))
    explained = 1 - (var_x + var_y - 2 * covariance) / torch.where(var_y > 0, var_y, torch.nan)
    spread_x = torch.where(var_x > 0, var_x, torch.nan)
    correlation = covariance / (spread_x * torch.where(var_y > 0, var_y, torch.nan)).sqrt()
    return torch.stack([explained, correlation.clamp(-1, 1), covariance / spread_x], -1)


def _bootstrap(sums: Tensor, none: Tensor, resamples: int, seed: int) -> list[tuple[float, float] | None]:
    """Each figure's 2.5% and 97.5% points over resampled clusters, from a generator of its own; None where it is never defined."""
    generator = torch.Generator().manual_seed(seed)
    count = len(sums)
    drawn = []
    chunk = max(1, 1_000_000 // count)
    for start in range(0, resamples, chunk):
        rows = torch.randint(count, (min(chunk, resamples - start), count), generator=generator)
        drawn.append(_figures(sums[rows].sum(1), none))
    ends = torch.nanquantile(torch.cat(drawn), torch.tensor([0.025, 0.975], dtype=torch.float64), 0)
    return [None if math.isnan(low) else (low, high) for low, high in ends.T.tolist()]


def judge_critic(returns: Calibration | None, forks: Calibration | None) -> tuple[bool | None, str]:
    """Is credit from this critic to be believed: True, False, or None where nothing says so; and why, in a sentence.

    False as soon as one comparison falls below `FLOOR`; True only where forks were made, since returns say nothing about
    single actions, and enough of them: from `LEAST_EPISODES`, the interval of their correlation above 0.
    """
    of_returns = "no step could be set against a real return"
    if returns is not None and math.isnan(returns.explained_variance):
        of_returns = "all real returns are alike"
    elif returns is not None:
        of_returns = f"it explains {returns.explained_variance:.3g} of the variance of real returns"
        if returns.explained_variance < FLOOR:
            return False, f"{of_returns}, less than {FLOOR:g}"
    if forks is None:
        return None, f"{of_returns}, and no action was replaced to test what it says of single actions"
    of_forks = f"the changes it claims for replaced actions correlate by {forks.correlation:.3g} with the real ones"
    if forks.correlation < FLOOR:
        return False, f"{of_forks}, less than {FLOOR:g}"
    if not math.isnan(forks.correlation):
        if forks.correlation_interval is None or forks.episodes < LEAST_EPISODES or forks.correlation_interval[0] <= 0:
            return None, f"{of_forks}, but {forks.samples} of them from {forks.episodes} episodes may do that by chance"
        return True, f"{of_returns}, and {of_forks}"
    if math.isnan(forks.slope):
        return None, "it claims the same change for every replaced action, so nothing tells right from wrong"
    return False, "it claims different changes for replaced actions, but the real change was the same for all of them"
