"""Stress: an agent that decides one episode in fifty, and a tester who looks after every pair.

    D = 1 with probability p, else 0;  R = 1;  the margin is p, so the agent's true effect is exactly the margin

"Below the margin" is false. A test that looks 2,000 times must still claim it in at most 5% of all simulations; beside it stands the
one-sided t bound with the same looks (from the tenth pair on), and at 64 pairs once. The same test must find agents that are
truly lazy: D always 0, or D normal with mean 0 and standard deviation 0.1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...credit.evidence import floor_pairs, log_e_path
from ...credit.intervals import t_quantile

ALPHA = 0.05
LOOKS = 2_000
RARE = (0.02, 0.05, 0.1)
_WITHIN, _CHUNK, _SD, _T_FROM, _T_ONCE = 512, 200, 0.1, 10, 64
Kind = Literal["boundary", "always 0", "sd 0.1"]


@dataclass(frozen=True)
class Stress:
    """One row of the table."""

    kind: Kind
    p: float
    """Chance of the deciding event; 0 for the lazy."""
    delta: float
    """The margin, as a part of the range."""
    simulations: int
    looks: int
    lazy: float
    """Share called lazy: at the boundary a false claim at any look; for the lazy, found within 512 pairs."""
    low: float
    """Lower end of the share's 95% interval (Wilson)."""
    high: float
    median_pairs: float | None
    """Of those found."""
    floor: int
    t_any_look: float
    """The t bound's share, at any look."""
    t_once: float
    """The t bound's share, at 64 pairs."""


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a proportion."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def measure_stress(simulations: int, seed: int, say: Callable[[str], None] = lambda text: None, *, looks: int = LOOKS) -> list[Stress]:
    """The boundary at every p, and the power at the same margins (a twentieth of the simulations)."""
    rows = []
    for p in RARE:
        say(f"stress: {simulations:,} simulations of {looks:,} looks, p = {p:g}")
        generator = torch.Generator().manual_seed(seed)
        rows.append(_row("boundary", p, p, simulations, looks, looks, generator))
    for delta in RARE:
        for kind in ("always 0", "sd 0.1"):
            generator = torch.Generator().manual_seed(seed)
            count = 1 if kind == "always 0" else max(simulations // 20, 100)
            rows.append(_row(kind, 0.0, delta, count, looks, min(_WITHIN, looks), generator))
    return rows


def _row(kind: Kind, p: float, delta: float, simulations: int, looks: int, within: int, generator: torch.Generator) -> Stress:
    first, t_any, t_once = [], 0, 0
    for start in range(0, simulations, _CHUNK):
        count = min(_CHUNK, simulations - start)
        differences = _draw(kind, p, count, within, generator)
        fired = log_e_path(differences, delta, 1.0, "below") >= -torch.tensor(ALPHA).log()
        first.append(torch.where(fired.any(1), fired.to(torch.int64).argmax(1) + 1, 0))
        below = _t_below(differences, delta)
        t_any += int(below.any(1).sum())
        t_once += int(below[:, min(_T_ONCE, within) - 1].sum())
    when = torch.cat(first)
    found = when[when > 0]
    share = len(found) / simulations
    low, high = wilson(share, simulations)
    return Stress(
        kind=kind,
        p=p,
        delta=delta,
        simulations=simulations,
        looks=looks if kind == "boundary" else within,
        lazy=share,
        low=low,
        high=high,
        median_pairs=float(found.to(torch.float64).median()) if len(found) else None,
        floor=floor_pairs(delta, 1.0, ALPHA),
        t_any_look=t_any / simulations,
        t_once=t_once / simulations,
    )


def _draw(kind: Kind, p: float, count: int, looks: int, generator: torch.Generator) -> Float[Tensor, "simulation look"]:
    if kind == "boundary":
        return (torch.rand(count, looks, generator=generator) < p).to(torch.float64)
    if kind == "always 0":
        return torch.zeros(count, looks, dtype=torch.float64)
    return (_SD * torch.randn(count, looks, generator=generator, dtype=torch.float64)).clamp(-1, 1)


@lru_cache(maxsize=4)
def _quantiles(looks: int) -> Float[Tensor, " look"]:
    """One-sided 95% t quantiles after each look; those of many degrees of freedom are the same to three digits in steps of 25."""
    steps = [min(n - 1, 30) if n - 1 <= 30 else 25 * ((n - 1) // 25) for n in range(1, looks + 1)]
    return torch.tensor([t_quantile(max(df, 1), 1 - 2 * ALPHA) for df in steps], dtype=torch.float64)


def _t_below(differences: Float[Tensor, "simulation look"], delta: float) -> Bool[Tensor, "simulation look"]:
    """Whether the t bound lies below the margin, after each look from the tenth on."""
    number = torch.arange(1, differences.shape[1] + 1, dtype=torch.float64)
    mean = differences.cumsum(1) / number
    variance = (differences.square().cumsum(1) / number - mean.square()).clamp_min(0) * number / (number - 1).clamp_min(1)
    below = mean + _quantiles(differences.shape[1]) * (variance / number).sqrt() < delta
    return below & (number >= _T_FROM)
