"""Credit over the inputs of a mixer: how agents' chosen utilities, against reference utilities, make up the learned team value.

    v(C) = E f(q_C, q_ref outside C; s)              phi_i = Shapley_i(v)
    IG_i = (q_i - q_ref_i) integral_0^1 df/dq_i(q_ref + t (q - q_ref); s) dt              (arXiv:1703.01365)

f is the mixer, q_i = Q_i(o_i, u_i) the utility of what agent i did, q_ref_i that of what the reference would have done. The
expectation is over the reference's actions: the mixer's *outputs* are averaged, since its output at averaged inputs is what no team
gets. Both add up to v(N) - v(empty), and neither changes when an agent's utility is rescaled and the mixer undoes it. The slope
df/dq_i does (`mixer_gradient`).

What is measured is the team value as it was learned, one decision at a time: a mixer fitted to uniform data has learned (near) Banzhaf
values of the task, and its exact Shapley values are those.

`value` is f at fixed states: a function from utilities (*batch, sample, agent) to team values (*batch, sample), such as
`mixer.at(state)`, so that weights made from a state are made once however many coalitions are asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .base import LARGEST_EXACT, all_coalitions
from .shapley import shapley_from_values

LARGEST_TEAM = LARGEST_EXACT
"""Players whose 2^n coalitions are enumerated."""
_AT_ONCE = 2**17
"""Utility vectors handed to `value` in one call."""
_BELOW_ONE = 1 - 2**-53

MixedValue = Callable[[Tensor], Tensor]
"""f at fixed states: (*batch, sample, agent) -> (*batch, sample)."""


@runtime_checkable
class MixesCoalitions(Protocol):
    """A `MixedValue` with a way of its own to all coalitions."""

    def coalition_values(
        self, q: Float[Tensor, "*batch agent"], q_ref: Float[Tensor, "*batch draw agent"], players: Sequence[int]
    ) -> Float[Tensor, "*batch coalition"]:
        """f where the players in C have their q and everybody else q_ref; the mean over draws. Entry m: players whose bits are set in m."""
        ...


@dataclass(frozen=True)
class PathCredit:
    """Integrated gradients, with what they fail to account for."""

    value: Float[Tensor, "*batch agent"]
    completeness_error: Float[Tensor, "*batch"]
    """sum_i IG_i - (f(q) - f(q_ref)), the mean over draws: what the quadrature missed."""


def mixer_shapley(
    value: MixedValue, q: Float[Tensor, "*batch agent"], q_ref: Float[Tensor, "*references agent"]
) -> Float[Tensor, "*batch agent"]:
    """Exact Shapley values of v(C) = E f(q_C, q_ref outside C).

    Args:
        value: f at the states of the batch.
        q: utilities of the actions taken; 0 for an agent that does not act.
        q_ref: utilities of the reference's actions: (*batch, agent) for a reference with one action, else (*batch, draw, agent), joint
            draws (`draw_utilities`) that are the same for every coalition. With draws the values are exact for the mean over them, an
            unbiased estimate of the expectation, which itself would take the product of all agents' actions.

    Returns:
        phi in float64, in the unit of f; its sum is v(N) - v(empty). Exactly 0 where q_i equals q_ref_i in every draw.

    Raises:
        ValueError: shapes that do not fit, more than 12 agents with something at stake, or a mixer that returns another shape or NaN.
    """
    references = _draws_of(q, q_ref)
    differs = (q.unsqueeze(-2) != references).any(-2)
    players = differs.reshape(-1, q.shape[-1]).any(0).nonzero().squeeze(-1).tolist()
    phi = torch.zeros(q.shape, dtype=torch.float64)
    if players:
        values = mixed_coalitions(value, q, references, players)
        phi[..., players] = shapley_from_values(values.movedim(-1, 0)).movedim(0, -1)
    return torch.where(differs, phi, 0.0)


def mixed_coalitions(
    value: MixedValue, q: Float[Tensor, "*batch agent"], q_ref: Float[Tensor, "*batch draw agent"], players: Sequence[int]
) -> Float[Tensor, "*batch coalition"]:
    """v(C) for all 2^p coalitions of the players, entry m being of those whose bits are set in m; the others stay at q_ref."""
    if len(players) > LARGEST_TEAM:
        raise ValueError(
            f"{len(players)} agents have something at stake; all coalitions of a mixer's inputs are enumerated for at most {LARGEST_TEAM} "
            "(integrated gradients take any number)"
        )
    if isinstance(value, MixesCoalitions):
        return _checked(value.coalition_values(q, q_ref, players), (*q.shape[:-1], 2 ** len(players)))
    member = torch.zeros(2 ** len(players), q.shape[-1], dtype=torch.bool)
    member[:, players] = all_coalitions(len(players))
    draws = q_ref.shape[-2]
    size = max(1, _AT_ONCE // (draws * q.shape[:-1].numel()))
    found = []
    for some in member.split(size):
        mixed = torch.where(some, q[..., None, None, :], q_ref.unsqueeze(-2))  # (*batch, draw, coalition, agent)
        with torch.no_grad():
            found.append(_ask(value, mixed.flatten(-3, -2)).unflatten(-1, (draws, len(some))).mean(-2))
    return torch.cat(found, -1)


def mixer_integrated_gradients(
    value: MixedValue, q: Float[Tensor, "*batch agent"], q_ref: Float[Tensor, "*references agent"], *, steps: int = 32
) -> PathCredit:
    """Integrated gradients of f on the straight line from q_ref to q, by Gauss-Legendre quadrature; arguments as in `mixer_shapley`.

    It costs `steps` gradients whatever the number of agents. Like Shapley values it adds up (but for `completeness_error`) and does
    not see how utilities are scaled; unlike them it looks at one way of joining only: all agents together, bit by bit.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; the path is looked at in at least 1 place (32 is a good start)")
    references = _draws_of(q, q_ref)
    gap = q.unsqueeze(-2) - references
    places, weights = (torch.from_numpy(nodes) / 2 for nodes in np.polynomial.legendre.leggauss(steps))  # on [-1/2, 1/2]
    slope = torch.zeros(references.shape, dtype=torch.float64)
    for part in torch.arange(steps).split(max(1, _AT_ONCE // max(1, references[..., 0].numel()))):
        along = references.unsqueeze(-3) + (places[part] + 0.5).to(q.dtype).view(-1, 1, 1) * gap.unsqueeze(
            -3
        )  # (*batch, place, draw, agent)
        slopes = mixer_gradient(value, along.flatten(-3, -2)).view(along.shape).to(torch.float64)
        slope += torch.einsum("p,...pda->...da", weights[part], slopes)
    of_draws = gap * slope
    with torch.no_grad():
        whole = _ask(value, q.unsqueeze(-2)).squeeze(-1).to(torch.float64) - _ask(value, references).to(torch.float64).mean(-1)
    found = of_draws.mean(-2)
    return PathCredit(found, found.sum(-1) - whole)


def mixer_gradient(value: MixedValue, q: Float[Tensor, "*batch sample agent"]) -> Float[Tensor, "*batch sample agent"]:
    """df/dq_i. WARNING: not credit.

    It tells how Q_tot would move with the agent's utility, not what the agent's action brought: a dummy whose utility never changes
    has as large a slope as a worker, and Q_i scaled by 3 with the mixer undoing it has a third of the slope and the same Q_tot.
    """
    at = q.detach().clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(_ask(value, at).sum(), at)
    return slope


def utility_gaps(q: Float[Tensor, "*batch agent"], q_ref: Float[Tensor, "*references agent"]) -> Float[Tensor, "*batch agent"]:
    """q_i - E q_ref_i in float64: the Shapley values, and integrated gradients, of a mixer that is a sum (VDN)."""
    return q.to(torch.float64) - _draws_of(q, q_ref).to(torch.float64).mean(-2)


def draw_utilities(
    utilities: Float[Tensor, "*batch agent action"],
    reference: Float[Tensor, "*batch agent action"],
    draws: int,
    generator: torch.Generator,
) -> Float[Tensor, "*batch draw agent"]:
    """Utilities of actions drawn from a stochastic reference, independently for every agent and batch entry.

    The draws are a Latin hypercube: each agent's draws are spread over its `draws` quantiles in random order. Every single draw has
    the reference's distribution, so means over draws are unbiased, and what is a sum over agents varies little.

    Args:
        utilities: Q_i(o_i, .).
        reference: rho_i, summing to 1 over actions; an agent that does not act may have zeros (what it draws means nothing).
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; a stochastic reference needs at least 1 (16 is a good start)")
    shape = (*utilities.shape[:-1], draws)
    order = torch.rand(shape, generator=generator).argsort(-1)
    uniform = ((order + torch.rand(shape, generator=generator, dtype=torch.float64)) / draws).clamp(max=_BELOW_ONE)
    reached = reference.to(torch.float64).cumsum(-1)
    reached = reached / reached[..., -1:].clamp(min=torch.finfo(torch.float64).tiny)
    action = torch.searchsorted(reached, uniform, right=True).clamp(max=utilities.shape[-1] - 1)
    return utilities.gather(-1, action).transpose(-1, -2)


def _draws_of(q: Tensor, q_ref: Tensor) -> Float[Tensor, "*batch draw agent"]:
    """q_ref with a draw axis."""
    references = q_ref.unsqueeze(-2) if q_ref.dim() == q.dim() else q_ref
    if references.dim() != q.dim() + 1 or references.shape[-1] != q.shape[-1] or references.shape[:-2] != q.shape[:-1]:
        raise ValueError(
            f"q is of shape {tuple(q.shape)} and q_ref of shape {tuple(q_ref.shape)}; q_ref is shaped like q, with an axis of draws before "
            "the agents where the reference is drawn"
        )
    if not references.shape[-2]:
        raise ValueError("q_ref has no draws; a stochastic reference needs at least 1")
    return references


def _ask(value: MixedValue, q: Tensor) -> Tensor:
    return _checked(value(q), tuple(q.shape[:-1]))


def _checked(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(values.shape) != shape:
        raise ValueError(
            f"the mixer returned shape {tuple(values.shape)} where {shape} was expected: one team value per state and vector of utilities"
        )
    if not bool(values.isfinite().all()):
        raise ValueError("the mixer returned NaN or infinity; credit needs a finite team value for every coalition")
    return values
