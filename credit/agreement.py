"""Do estimators agree, and do their own intervals tell the agents apart?

Two estimators of the same team may rank its agents alike or not; the rank correlation says how far. It says nothing where an estimator's
intervals overlap so much that its own order is noise: `tells_apart` counts the pairs of agents whose intervals are disjoint.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .base import Credit
from .scores import spearman


def agreement(estimates: Sequence[Credit]) -> Float[Tensor, "estimate estimate"]:
    """Spearman's correlation of every two estimates over the agents both measured; NaN where they share no two, or no order."""
    matrix = torch.full((len(estimates), len(estimates)), math.nan, dtype=torch.float64)
    for row, first in enumerate(estimates):
        for column, second in enumerate(estimates):
            both = first.value.isfinite() & second.value.isfinite()
            if int(both.sum()) >= 2:
                matrix[row, column] = spearman(first.value[both], second.value[both])
    return matrix


def tells_apart(credit: Credit) -> tuple[int, int]:
    """(pairs of agents whose intervals are disjoint, pairs of agents measured). Exact values differ or are equal."""
    known = credit.value.isfinite()
    low = credit.value if credit.low is None else torch.where(credit.low.isfinite(), credit.low, -torch.inf)
    high = credit.value if credit.high is None else torch.where(credit.high.isfinite(), credit.high, torch.inf)
    low, high = low[known], high[known]
    apart = low.unsqueeze(0) > high.unsqueeze(1)
    count = int(known.sum())
    return int(apart.sum()), count * (count - 1) // 2
