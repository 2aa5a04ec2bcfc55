"""QMIX: Q_tot = |w2(s)| . elu(|W1(s)| q + b1(s)) + v(s), monotone in every utility (arXiv:1803.11485).

Only the weights that multiply utilities are made non-negative; the biases b1(s) and v(s) are free.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Mixer
from .mlp import mlp


class QMix(Mixer):
    """A two-layer mixing network whose weights are made from the global state by hypernetworks."""

    monotone, linear = True, False

    def __init__(self, num_agents: int, state_dim: int, embed_dim: int = 32, hyper_dim: int = 64):
        super().__init__()
        self.num_agents, self.embed_dim = num_agents, embed_dim
        self.W1 = mlp(state_dim, hyper_dim, num_agents * embed_dim)
        self.w2 = mlp(state_dim, hyper_dim, embed_dim)
        self.b1 = nn.Linear(state_dim, embed_dim)
        self.v = mlp(state_dim, embed_dim, 1)

    def forward(self, q: Float[Tensor, "*batch agent"], state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch"]:
        W1 = self.W1(state).abs().unflatten(-1, (self.num_agents, self.embed_dim))
        hidden = F.elu((q.unsqueeze(-2) @ W1).squeeze(-2) + self.b1(state))
        return (hidden * self.w2(state).abs()).sum(-1) + self.v(state).squeeze(-1)
