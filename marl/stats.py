"""Means with intervals; what was resampled is said by the caller."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval (None with fewer than two samples)."""

    mean: float
    interval: tuple[float, float] | None
    samples: int


def bootstrap_mean(values: Float[Tensor, " sample"], *, level: float = 0.95, resamples: int = 4000, seed: int = 0) -> Estimate:
    """The mean and its percentile-bootstrap interval over samples (Efron 1979), from a generator of its own."""
    values = values.to(torch.float64)
    count = len(values)
    if count < 2:
        return Estimate(float(values.mean()), None, count)
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(resamples, dtype=torch.float64)
    chunk = max(1, 4_000_000 // count)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        means[start : start + rows] = values[torch.randint(count, (rows, count), generator=generator)].mean(-1)
    low, high = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Estimate(float(values.mean()), (low, high), count)
