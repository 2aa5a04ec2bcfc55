"""Credit read from a QMIX that was fitted to a game's coalition table, action 1 joining and action 0 staying out.

    Q_tot(C) = mixer(Q_1(a_1), ..., Q_n(a_n)),     a_i = 1 where i is in C;     minimised: mean over all C of (Q_tot(C) - v(C))^2

Uniformly random joint actions are what a replay of pure exploration holds. Two readings: the gradient dQ_tot / dQ_i at the full
team, which has no unit of its own (rescale a utility and it changes), and the Shapley value of Q_tot over the mixer's inputs.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...credit.base import all_coalitions
from ...credit.known_wrong import mean_table
from ...credit.shapley import shapley_from_values
from ...credit.trial import Trial
from ...mixers.qmix import QMix

_STEPS, _LR, _EMBED, _HYPER = 250, 0.03, 16, 16


@dataclass(frozen=True)
class Fit:
    """A mixer with its utilities."""

    mixer: QMix
    utility: Float[Tensor, "agent action"]

    def value(self, chosen: Bool[Tensor, "coalition agent"]) -> Float[Tensor, " coalition"]:
        """Q_tot of each joint action."""
        return self.of_inputs(_chosen(self.utility, chosen))

    def of_inputs(self, q: Float[Tensor, "coalition agent"]) -> Float[Tensor, " coalition"]:
        """Q_tot of the mixer's inputs."""
        return self.mixer(q, torch.ones(len(q), 1))


def _chosen(utility: Tensor, chosen: Bool[Tensor, "coalition agent"]) -> Float[Tensor, "coalition agent"]:
    return torch.where(chosen, utility[:, 1], utility[:, 0])


def fit(table: Float[Tensor, " coalition"], seed: int) -> Fit:
    """Full-batch Adam on the whole table, scaled to standard deviation 1 while it learns."""
    return _fit(tuple(table.tolist()), seed)


@lru_cache(maxsize=256)  # two readings of the same fits
def _fit(table: tuple[float, ...], seed: int) -> Fit:
    values = torch.tensor(table)
    joint = all_coalitions(len(table).bit_length() - 1)
    spread, level = values.std().clamp_min(1e-12), values.mean()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mixer = QMix(joint.shape[1], 1, _EMBED, _HYPER)
        utility = nn.Parameter(0.1 * torch.randn(joint.shape[1], 2))
    optimiser = torch.optim.Adam([*mixer.parameters(), utility], lr=_LR)
    ones = torch.ones(len(joint), 1)
    for _ in range(_STEPS):
        loss = (mixer(_chosen(utility, joint), ones) - (values - level) / spread).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():  # back to the table's unit: the last layer is linear
        for last in (*mixer.w2[-1].parameters(), *mixer.v[-1].parameters()):
            last *= spread
        dict(mixer.v[-1].named_parameters())["bias"].add_(level)
    return Fit(mixer.requires_grad_(False), utility.detach())


def mixer_gradients(game: Trial, num_agents: int, budget: int, seed: int) -> Float[Tensor, " agent"]:
    """dQ_tot / dQ_i where everybody joins."""
    fitted = fit(mean_table(game, budget), seed)
    q = fitted.utility[:, 1].unsqueeze(0).clone().requires_grad_()
    (slope,) = torch.autograd.grad(fitted.of_inputs(q).sum(), q)
    return slope[0]


def mixer_shapley(game: Trial, num_agents: int, budget: int, seed: int) -> Float[Tensor, " agent"]:
    """The Shapley value of Q_tot over its inputs, from Q_i(0) to Q_i(1): exact for what was learned, which need not be v."""
    return shapley_from_values(fit(mean_table(game, budget), seed).value(all_coalitions(num_agents)))
