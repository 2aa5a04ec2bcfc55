"""What to bear in mind when several estimates of one team lie side by side: assumptions as sentences, doubts as warnings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..credit.agreement import tells_apart
from ..credit.base import Credit
from .critic_credit import CriticCredit
from .exploration import epsilon_at
from .inspection import EPISODE_METHODS
from .run import Run

LEARNED = ("critic", "mixer", "mixer-ig")
DISAGREE = 0.8
"""Rank correlation below which a learned estimate is said to disagree with the played one."""


@dataclass(frozen=True)
class Flag:
    """One thing to know about an estimate."""

    about: str
    """Which estimate, or "all"."""
    level: Literal["note", "warning"]
    text: str


def flags(run: Run, methods: Sequence[str], estimates: Sequence[Credit], matrix: Sequence[Sequence[float]]) -> list[Flag]:
    """Warnings first; `matrix` is the rank correlation of every two estimates."""
    found = [flag for method, credit in zip(methods, estimates, strict=True) for flag in _of_one(run, method, credit)]
    found += _of_references(methods, estimates)
    found += _disagreements(methods, estimates, matrix)
    found += _redundant(run, methods, estimates)
    merged: dict[str, Flag] = {}  # the same sentence about several estimates is said once
    for flag in found:
        before = merged.get(flag.text)
        merged[flag.text] = flag if before is None else replace(before, about=f"{before.about}, {flag.about}")
    return sorted(merged.values(), key=lambda flag: flag.level != "warning")


def _name(method: str, credit: Credit) -> str:
    return f"{method} ({credit.reference})"


def _of_one(run: Run, method: str, credit: Credit) -> list[Flag]:
    name, found = _name(method, credit), []
    apart, pairs = tells_apart(credit)
    if pairs and not apart:
        found.append(Flag(name, "warning", "its 95% intervals do not tell any two agents apart: the order of its values may be chance"))
    if method in LEARNED:
        epsilon = epsilon_at(run.config.exploration, run.env_steps, run.config.steps)
        how = f"read from networks that learned under epsilon {epsilon:.2g} at this checkpoint"
        if run.config.exploration.probe_share:
            how += f", with {run.config.exploration.probe_share:.0%} of the episodes probes from the Shapley kernel"
        if method in ("mixer", "mixer-ig"):
            how += ": near-greedy data pull an additive fit towards leave-one-out, uniform data towards the Banzhaf value"
        found.append(Flag(name, "note", how))
        if run.config.learner.standardise_rewards:
            found.append(Flag(name, "note", f"learned in units of reward / {run.reward_scale:.3g}; shown in raw reward"))
    if isinstance(credit, CriticCredit) and credit.reliable is not True:
        word = "critic unreliable" if credit.reliable is False else "critic not shown to be reliable"
        found.append(Flag(name, "warning", f"{word}: {credit.why}"))
    return found


def _of_references(methods: Sequence[str], estimates: Sequence[Credit]) -> list[Flag]:
    names = sorted({credit.reference for credit in estimates})
    found = []
    if names == ["noop"]:
        text = "measured against noop alone: an agent that helps by standing still (a guard) earns 0 here; add --reference random"
        found.append(Flag("all", "warning", text))
    elif len(names) == 1:
        found.append(Flag("all", "note", f"measured against {names[0]} alone: no reference is neutral"))
    if set(names) <= {"noop", "random"} and any(method in EPISODE_METHODS for method in methods):
        text = (
            "against noop and random the teammates meet what they never saw in training, so part of a loss is their brittleness: "
            "--reference average, peer:AGENT or @ENV_STEPS (an early checkpoint) stays nearer to it"
        )
        found.append(Flag("all", "note", text))
    return found


def _disagreements(methods: Sequence[str], estimates: Sequence[Credit], matrix: Sequence[Sequence[float]]) -> list[Flag]:
    found = []
    for row, (method, credit) in enumerate(zip(methods, estimates, strict=True)):
        if method not in LEARNED:
            continue
        for column, (other, played) in enumerate(zip(methods, estimates, strict=True)):
            same = other == "shapley" and played.reference == credit.reference
            if same and tells_apart(played)[0] and matrix[row][column] < DISAGREE:
                text = (
                    f"ranks the agents unlike {_name(other, played)}, which was played (Spearman {matrix[row][column]:.2f}): trust that one"
                )
                found.append(Flag(_name(method, credit), "warning", text))
    return found


def _redundant(run: Run, methods: Sequence[str], estimates: Sequence[Credit]) -> list[Flag]:
    """Agents whose Shapley value is clearly positive while leaving them out alone shows nothing."""
    found = []
    for method, shapley in zip(methods, estimates, strict=True):
        for other, alone in zip(methods, estimates, strict=True):
            if (method, other) != ("shapley", "difference") or shapley.reference != alone.reference:
                continue
            if shapley.low is None or alone.low is None or alone.high is None:
                continue
            hidden = (shapley.low > 0) & (alone.low <= 0) & (alone.value < shapley.value / 2)
            if names := [name for name, flag in zip(run.env.spec.agents, hidden.tolist(), strict=True) if flag]:
                text = (
                    f"{', '.join(names)}: earns with others (Shapley above 0) what leaving it out alone does not show: teammates stand in"
                )
                found.append(Flag(_name(other, alone), "note", text))
    return found
