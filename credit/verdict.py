"""From evidence to words: what may be claimed of each agent, the class that follows, and a sentence about it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .evidence import e_holm


@dataclass(frozen=True)
class Verdict:
    """What can be said of one agent. Tuples have one entry per reference in `references`."""

    agent: int
    name: str
    verdict: str
    """contributing, lazy-idle, lazy-busy or undecided."""
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


@dataclass(frozen=True)
class Claims:
    """What is shown about each agent, family-wise over agents."""

    above: Bool[Tensor, " agent"]
    """The effect is above the margin for some reference."""
    below: Bool[Tensor, " agent"]
    """The effect is below the margin for every reference that applies."""


def log_e_all_below(log_e_small: Float[Tensor, "agent reference"], applies: Bool[Tensor, "agent reference"]) -> Float[Tensor, " agent"]:
    """Evidence that the effect is below the margin under every reference: the least of them (intersection-union)."""
    return torch.where(applies, log_e_small, math.inf).amin(1)


def log_e_some_above(log_e_large: Float[Tensor, "agent reference"], applies: Bool[Tensor, "agent reference"]) -> Float[Tensor, " agent"]:
    """Evidence that it is above the margin under some reference: the best of them over their number (Bonferroni)."""
    return torch.where(applies, log_e_large, -math.inf).amax(1) - applies.sum(1).log()


def claims(
    log_e_small: Float[Tensor, "agent reference"],
    log_e_large: Float[Tensor, "agent reference"],
    applies: Bool[Tensor, "agent reference"],
    *,
    alpha: float = 0.05,
) -> Claims:
    """From evidence per (agent, reference) to claims per agent, Holm over agents."""
    return Claims(above=e_holm(log_e_some_above(log_e_large, applies), alpha), below=e_holm(log_e_all_below(log_e_small, applies), alpha))


def redundant(
    share: Float[Tensor, "agent reference"] | None, delta: Float[Tensor, " reference"], applies: Bool[Tensor, "agent reference"]
) -> Bool[Tensor, " agent"]:
    """Agents with Shapley value >= margin under some reference: not lazy, however small their leave-one-out effect. NaN: not measured."""
    if share is None:
        return torch.zeros(len(applies), dtype=torch.bool)
    return ((share >= delta) & applies).any(1)


def judge(
    shown: Claims, *, effort: Sequence[float | None], spared: Bool[Tensor, " agent"] | None = None, idle_below: float = 0.1
) -> tuple[str, ...]:
    """One class per agent.

    Args:
        shown: the claims.
        effort: P(an action other than no-op | it had a choice); None without a no-op: such an agent cannot idle.
        spared: agents never to be called lazy (`redundant`).
        idle_below: efforts below this are idle.
    """
    spared = torch.zeros_like(shown.below) if spared is None else spared

    columns = zip(shown.above.tolist(), shown.below.tolist(), spared.tolist(), effort, strict=True)
    return tuple(_class(above, below and not is_spared, acts, idle_below) for above, below, is_spared, acts in columns)


def _class(is_above: bool, is_lazy: bool, effort: float | None, idle_below: float) -> str:
    if is_above:
        return "contributing"
    if not is_lazy:
        return "undecided"
    return "lazy-idle" if effort is not None and effort < idle_below else "lazy-busy"


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " or " + items[-1]


def explain(verdict: Verdict) -> str:
    """One sentence for a reader outside statistics."""
    name, about = verdict.name, " (approximately: the range of returns is unknown)" if verdict.approximate else ""
    if not verdict.references:
        return f"{name} was not judged: {verdict.note}."
    best = max(range(len(verdict.effect)), key=lambda k: verdict.e_above[k])
    replaced = f'with "{verdict.references[best]}" in its place the team loses about'
    loss = f"{verdict.effect[best]:.3g} (between {verdict.low[best]:.3g} and {verdict.high[best]:.3g})"
    if verdict.verdict == "contributing":
        return f"{name} contributes{about}: {replaced} {loss} an episode, more than the margin of {verdict.delta[best]:.3g}."
    stand_ins = _list([f'"{reference}"' for reference in verdict.references])
    if verdict.verdict == "undecided":
        return f"{name} cannot be judged yet{about}: {replaced} {loss} an episode; {verdict.note}."
    habit = "hardly ever acts" if verdict.verdict == "lazy-idle" else "acts"
    acts = habit if verdict.effort is None else f"{habit} ({100 * verdict.effort:.0f}% of its choices are actions)"
    but = "and" if verdict.verdict == "lazy-idle" else "but"
    same = _list([f'"{name}"' for name, identical in zip(verdict.references, verdict.identical, strict=True) if identical] or [""])
    alike = f"; in every step seen it did just what {same} would do" if any(verdict.identical) else ""
    return (
        f"{name} does not pull its weight{about}: it {acts}, {but} with {stand_ins} in its place the team loses less than "
        f"{max(verdict.delta):.3g} an episode, judged on {verdict.episodes} pairs of episodes{alike}."
    )
