"""How good a credit estimate is, against a known truth."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def ranks(values: Float[Tensor, " agent"]) -> Float[Tensor, " agent"]:
    """1 for the smallest; tied values share the average of their places."""
    below = (values.unsqueeze(0) < values.unsqueeze(1)).sum(1)
    same = (values.unsqueeze(0) == values.unsqueeze(1)).sum(1)
    return below.to(torch.float64) + (same + 1) / 2


def spearman(estimate: Float[Tensor, " agent"], truth: Float[Tensor, " agent"]) -> float:
    """Correlation of the ranks, -1 to 1, ties averaged; NaN where one side ranks everybody alike (there is no order to agree on)."""
    a, b = ranks(estimate), ranks(truth)
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / (a.norm() * b.norm()))


def kendall(estimate: Float[Tensor, " agent"], truth: Float[Tensor, " agent"]) -> float:
    """Kendall's tau-b, -1 to 1: pairs in the same order minus pairs in the opposite one; NaN where one side ranks all alike."""
    a = (estimate.unsqueeze(0) - estimate.unsqueeze(1)).sign().to(torch.float64)
    b = (truth.unsqueeze(0) - truth.unsqueeze(1)).sign().to(torch.float64)
    return float((a * b).sum() / (a.norm() * b.norm()))


def cosine(estimate: Float[Tensor, " agent"], truth: Float[Tensor, " agent"]) -> float:
    """Cosine of the angle between two credit vectors: 1 for the same split up to scale; NaN if one is all 0."""
    a, b = estimate.to(torch.float64), truth.to(torch.float64)
    return float((a @ b) / (a.norm() * b.norm()))


def rmse(estimate: Float[Tensor, "*batch agent"], truth: Float[Tensor, " agent"]) -> float:
    """Root of the mean squared error over agents and repetitions, in the credit's unit."""
    return float((estimate - truth).square().mean().sqrt())


def sum_error(value: Float[Tensor, " agent"], total: float) -> float:
    """|sum_i phi_i - (v(N) - v(empty))|: 0 for an efficient split."""
    return abs(float(value.sum()) - total)


def null_agent_error(estimate: Float[Tensor, " agent"], is_null: Bool[Tensor, " agent"]) -> float:
    """The largest |credit| given to an agent that truly changes nothing; 0 if there is no such agent."""
    wrong = estimate[is_null].abs()
    return float(wrong.max()) if len(wrong) else 0.0


def coverage(low: Float[Tensor, "*batch agent"], high: Float[Tensor, "*batch agent"], truth: Float[Tensor, " agent"]) -> float:
    """Share of intervals that hold the truth (1e-9 of slack, so that zero-width intervals of exact values count)."""
    return float(((low <= truth + 1e-9) & (truth - 1e-9 <= high)).to(torch.float64).mean())
