"""Value decomposition networks: Q_tot = sum_i Q_i (arXiv:1706.05296)."""

from jaxtyping import Float
from torch import Tensor

from .base import Mixer


class VDN(Mixer):
    """Q_tot = sum_i Q_i. The utilities are fixed only up to constants that sum to zero: credit is a gap, never a level."""

    monotone, linear = True, True

    def __init__(self, num_agents: int, state_dim: int, embed_dim: int = 0, hyper_dim: int = 0):
        super().__init__()

    def forward(self, q: Float[Tensor, "*batch agent"], state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch"]:
        return q.sum(-1)
