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

_AT_ONCE = 2**19
"""Hidden values computed together, 2 MB of them: they stay in the cache."""


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
        batch, (draws, agents), embed, coalitions = q.shape[:-1], q_ref.shape[-2:], self.b1.shape[-1], 2 ** len(players)
        W1, b1, w2, v = (
            self.W1.reshape(-1, agents, embed),
            self.b1.reshape(-1, 1, embed),
            self.w2.reshape(-1, embed, 1),
            self.v.reshape(-1, 1),
        )
        q, q_ref, which = q.reshape(-1, 1, agents), q_ref.reshape(-1, draws, agents), torch.tensor(players, device=q.device)
        gap, rows_of_players = (q - q_ref).index_select(-1, which).unsqueeze(-1), W1.index_select(-2, which).unsqueeze(1)
        size = min(len(v), max(1, _AT_ONCE // (draws * coalitions * embed)))
        found, buffer = q.new_empty(len(v), coalitions), q.new_empty(size, draws, coalitions, embed)
        for start in range(0, len(v), size):
            rows = slice(start, min(start + size, len(v)))
            hidden, gained = buffer[: rows.stop - start], gap[rows] * rows_of_players[rows]  # gained: (state, draw, player, embed)
            torch.add(q_ref[rows] @ W1[rows], b1[rows], out=hidden[:, :, 0])
            for player in range(len(players)):
                old, new = hidden[:, :, : 1 << player], hidden[:, :, 1 << player : 2 << player]
                torch.add(old, gained[:, :, player, None], out=new)
            mixed = F.elu_(hidden).flatten(1, 2) @ w2[rows]
            found[rows] = mixed.view(-1, draws, coalitions).mean(1) + v[rows]
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
