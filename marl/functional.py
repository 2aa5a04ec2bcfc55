"""One step of an optimiser as pure functions of tensors: what a captured iteration and stacked seeds are made of.

The plain trainer uses torch.optim; these give the same numbers (to rounding) without its Python, and map over seeds.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .config import LearnerConfig

Named = dict[str, Tensor]
"""Tensors by parameter name."""
BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Moments:
    """Running means of the gradients and of their squares, by parameter name."""

    first: Named
    second: Named


def clip(gradients: Named, limit: float) -> tuple[Named, Float[Tensor, ""]]:
    """Gradients of norm at most `limit` (scaled by limit / (norm + 1e-6) where longer), and the norm before."""
    norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    return {name: gradient * factor for name, gradient in gradients.items()}, norm


def descend(config: LearnerConfig, parameters: Named, gradients: Named, moments: Moments, factors: Tensor) -> tuple[Named, Moments]:
    """One step of `config.optimiser`, with the `factors` of this step and learning rate."""
    first = {name: torch.lerp(moments.first[name], gradient, 1 - BETAS[0]) for name, gradient in gradients.items()}
    second = {name: BETAS[1] * moments.second[name] + (1 - BETAS[1]) * gradient.square() for name, gradient in gradients.items()}
    plain, adaptive, root = factors.to(torch.float32).unbind(0)
    moved = {}
    for name, value in parameters.items():
        size = adaptive / (second[name].sqrt() / root + EPS)
        moved[name] = value - first[name] * (size if config.optimiser == "adam" else size + plain)
    return moved, Moments(first, second)


def factors(config: LearnerConfig, step: int, lr: float) -> tuple[float, float, float]:
    """What multiplies the first moment at the `step`-th step (from 1): a constant, a numerator over the second moment's root, and the
    root's divisor. Adam (arXiv:1412.6980), or rectified Adam, which takes plain steps until the variance of the adaptive rate is
    tractable (rho_t > 5, arXiv:1908.03265, equation 5)."""
    size, unbias = lr / (1 - BETAS[0] ** step), 1 - BETAS[1] ** step
    if config.optimiser == "adam":
        return 0.0, size, math.sqrt(unbias)
    longest = 2 / (1 - BETAS[1]) - 1
    length = longest - 2 * step * BETAS[1] ** step / unbias
    if length <= 5:
        return size, 0.0, 1.0
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return 0.0, size * math.sqrt(ratio * unbias), 1.0
