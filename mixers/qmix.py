"""QMIX: Q_tot = |w2(s)| . elu(|W1(s)| q + b1(s)) + v(s), monotone in every utility (arXiv:1803.11485).

Only the weights that multiply utilities are made non-negative; the biases b1(s) and v(s) are free.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Mixer
from .mlp import mlp

_AT_ONCE = 2**21
"""Hidden values computed together, 8 MB of them."""


@dataclass(frozen=True)
class QMixAt:
    """QMIX at given states: what its hypernetworks made there, and the mixing that is left."""

    W1: Float[Tensor, "*batch agent embed"]
    b1: Float[Tensor, "*batch embed"]
    w2: Float[Tensor, "*batch embed"]
    v: Float[Tensor, "*batch"]

    def __call__(self, q: Float[Tensor, "*batch sample agent"], /) -> Float[Tensor, "*batch sample"]:
        """w2 . elu(W1 q + b1) + v for many utilities of each state."""
        hidden = F.elu(q @ self.W1 + self.b1.unsqueeze(-2))
        return (hidden * self.w2.unsqueeze(-2)).sum(-1) + self.v.unsqueeze(-1)

    @torch.no_grad()
    def coalition_values(
        self, q: Float[Tensor, "*batch agent"], q_ref: Float[Tensor, "*batch draw agent"], players: Sequence[int]
    ) -> Float[Tensor, "*batch coalition"]:
        """f where the players in C have their q and everybody else q_ref, for all 2^p coalitions of p players; the mean over draws.

        Entry m is of the players whose bits are set in m. The hidden layer's input is linear in q, so that of C + i is that of C
        plus (q_i - q_ref_i) W1_i: p doublings, each a sum, in place of a matrix product per coalition.
        """
        batch, (draws, agents) = q.shape[:-1], q_ref.shape[-2:]
        embed, coalitions = self.b1.shape[-1], 2 ** len(players)
        W1, b1, w2, v = self.W1.reshape(-1, agents, embed), self.b1.reshape(-1, embed), self.w2.reshape(-1, embed), self.v.reshape(-1)
        q, q_ref = q.reshape(-1, 1, agents), q_ref.reshape(-1, draws, agents)
        found = q.new_empty(len(v), coalitions)
        size = max(1, _AT_ONCE // (draws * coalitions * embed))
        for start in range(0, len(v), size):
            rows = slice(start, start + size)
            gained = (q[rows] - q_ref[rows])[..., players].unsqueeze(-1) * W1[rows, None, players]  # (state, draw, player, embed)
            hidden = q.new_empty(*gained.shape[:2], coalitions, embed)
            hidden[:, :, 0] = q_ref[rows] @ W1[rows] + b1[rows, None]
            for player in range(len(players)):
                old, new = hidden[:, :, : 1 << player], hidden[:, :, 1 << player : 2 << player]
                torch.add(old, gained[:, :, player, None], out=new)
            mixed = F.elu_(hidden).flatten(1, 2) @ w2[rows, :, None]
            found[rows] = mixed.view(-1, draws, coalitions).mean(1) + v[rows, None]
        return found.reshape(*batch, coalitions)


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

    def at(self, state: Float[Tensor, "*batch state"]) -> QMixAt:
        W1 = self.W1(state).abs().unflatten(-1, (self.num_agents, self.embed_dim))
        return QMixAt(W1=W1, b1=self.b1(state), w2=self.w2(state).abs(), v=self.v(state).squeeze(-1))

    def forward(self, q: Float[Tensor, "*batch agent"], state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch"]:
        return self.at(state)(q.unsqueeze(-2)).squeeze(-1)
