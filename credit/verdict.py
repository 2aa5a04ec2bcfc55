"""From evidence to claims: what may be said of each agent, with the chance of any false claim of a kind at most alpha."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .classes import CloserLook
from .evidence import e_holm


@dataclass(frozen=True)
class Verdict:
    """What can be said of one agent. Tuples have one entry per reference in `references`."""

    agent: int
    name: str
    verdict: str
    """One of `classes.CLASSES`."""
    references: tuple[str, ...]
    """The references that apply to this agent (no-op only where it has one)."""
    effect: tuple[float, ...]
    """Mean paired difference of team returns."""
    low: tuple[float, ...]
    """Lower end of an anytime-valid 95% interval of the effect, for this agent alone (verdicts use `e_below` and `e_above`)."""
    high: tuple[float, ...]
    """Upper end."""
    delta: tuple[float, ...]
    """The margin, in team return."""
    e_below: tuple[float, ...]
    """Evidence that the effect is below the margin; 1 is none, (agents left) / alpha is enough."""
    e_above: tuple[float, ...]
    """Evidence that it is above; (agents left) (references) / alpha is enough."""
    identical: tuple[bool, ...]
    """True where the policy acted like the reference in every step seen and every difference was exactly 0."""
    effort: float | None
    """P(an action other than no-op | it had a choice); None without a no-op."""
    episodes: int
    """Pairs played for this agent and each reference."""
    needed: int | None
    """Undecided: further pairs that would decide if the effect goes on like this; None if no end is in sight."""
    approximate: bool
    note: str
    """What else a reader must know."""
    has_choice: float | None = None
    """Share of env steps at which the agent was alive and had a choice; None: not counted."""
    look: CloserLook | None = None
    """What a closer look found, where its effect is small."""
    gain: tuple[float, ...] = ()
    """G_rho: what the team gains over everybody following the reference."""
    pivotal: tuple[float, ...] = ()
    """Share of the episodes in which the agent decides more than the margin, |D_k| > delta: tells always little from seldom much."""


@dataclass(frozen=True)
class Claims:
    """What is shown about each agent, family-wise over agents."""

    above: Bool[Tensor, " agent"]
    """The effect is above the margin for some reference that counts (`that_count`)."""
    acting: Bool[Tensor, " agent"]
    """It is above the margin for a reference that counts as doing nothing: what little the agent does earns its place."""
    below: Bool[Tensor, " agent"]
    """The effect is below the margin for every reference that applies."""
    harms: Bool[Tensor, " agent"]
    """The effect is below 0 for some reference that counts as doing nothing; where there is none, for every reference."""
    harmless: Bool[Tensor, " agent"]
    """It is above -margin for all that count as doing nothing, or, where there is none, for some (this only ends the search)."""

    @property
    def settled(self) -> Bool[Tensor, " agent"]:
        """Further pairs would change nothing."""
        return self.above | self.harms | (self.below & self.harmless)


def log_e_all_below(
    log_e_small: Float[Tensor, "*batch agent reference"], applies: Bool[Tensor, "agent reference"]
) -> Float[Tensor, "*batch agent"]:
    """Evidence that the effect is below the margin under every reference: the least of them (intersection-union)."""
    return torch.where(applies, log_e_small, math.inf).amin(-1)


def log_e_some_above(
    log_e_large: Float[Tensor, "*batch agent reference"], applies: Bool[Tensor, "agent reference"]
) -> Float[Tensor, "*batch agent"]:
    """Evidence that it is above the margin under some reference: the best of them over their number (Bonferroni)."""
    return torch.where(applies, log_e_large, -math.inf).amax(-1) - applies.sum(-1).clamp_min(1).log()


@dataclass(frozen=True)
class Peaks:
    """The largest log e so far, per agent and reference.

    P(an e-process ever reaches 1/a) <= a where its hypothesis is false, so 1/peak is a p-value at every moment (Ville), and a claim once
    made stays.
    """

    small: Float[Tensor, "agent reference"]
    """For "mean < delta"."""
    large: Float[Tensor, "agent reference"]
    """For "mean > delta"."""
    negative: Float[Tensor, "agent reference"]
    """For "mean < 0"."""
    harmless: Float[Tensor, "agent reference"]
    """For "mean > -delta"."""


def that_count(
    applies: Bool[Tensor, "agent reference"],
    idle: Bool[Tensor, "agent reference"],
    effort: Sequence[float | None],
    idle_below: float = 0.1,
) -> Bool[Tensor, "agent reference"]:
    """The references by which an agent can earn its place: all that apply, or, where nobody in the team acts, those that do nothing.

    A guard stands still for the sake of others who act. Where all stand still, each of them is better than *random* if moving does harm:
    a team that has learned nothing else would be one of guards.
    """
    asleep = all(one is not None and one < idle_below for one in effort) and bool((idle & applies).any(1).all())
    return idle & applies if asleep else applies


def claims(
    peaks: Peaks,
    applies: Bool[Tensor, "agent reference"],
    idle: Bool[Tensor, "agent reference"],
    *,
    counts: Bool[Tensor, "agent reference"] | None = None,
    alpha: float = 0.05,
) -> Claims:
    """From evidence per (agent, reference) to claims per agent, Holm over agents.

    `idle`: the references that count as doing nothing; `counts`: those by which a place can be earned (default: all that apply).
    """
    idle = idle & applies
    can_idle = idle.any(1)
    harms = torch.where(can_idle, log_e_some_above(peaks.negative, idle), log_e_all_below(peaks.negative, applies))
    harmless = torch.where(can_idle, log_e_all_below(peaks.harmless, idle), log_e_some_above(peaks.harmless, applies))
    return Claims(
        above=e_holm(log_e_some_above(peaks.large, applies if counts is None else counts), alpha),
        acting=e_holm(log_e_some_above(peaks.large, idle), alpha),
        below=e_holm(log_e_all_below(peaks.small, applies), alpha),
        harms=e_holm(harms, alpha),
        harmless=harmless >= math.log(1 / alpha),
    )
