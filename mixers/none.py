"""Independent learners: every agent learns its own value of the team reward (Tan 1993); nothing is mixed."""

from jaxtyping import Float
from torch import Tensor

from .base import Mixer


class Independent(Mixer):
    """Q_i stays Q_i."""

    monotone, linear, per_agent = True, True, True

    def __init__(self, num_agents: int, state_dim: int, embed_dim: int = 0, hyper_dim: int = 0):
        super().__init__()

    def forward(self, q: Float[Tensor, "*batch agent"], state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch agent"]:
        return q
