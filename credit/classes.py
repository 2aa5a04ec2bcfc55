"""Ten words for an agent's part in its team, and the rule of each.

Delta_i(rho) is what the team loses with reference rho in agent i's place, delta_rho the margin. "Shown" means: by evidence that keeps its
error rate over all agents and looks (evidence.py). The first rule that holds decides.

    not-assessed   the agent is dead or without a choice nearly always: there is nothing to judge
    harmful        shown: Delta_i < 0 against doing nothing (against every reference given, where none of them does nothing)
    guard          shown: Delta_i > delta under some reference, though the agent hardly ever acts; but not under one that does nothing,
                   or what little it does earns its place
    contributing   shown: Delta_i > delta under some reference (if nobody in the team acts, only the references that do nothing count: a
                   team that stands still is not one of guards)
    undecided      not shown: Delta_i < delta under every reference
    redundant      its Shapley value reaches delta under some reference, or a teammate clearly stands in for it
    not-needed     shown: nobody tried in its place makes the team better by delta: there is nothing for it to earn
    undecided      nor is it shown that somebody in its place would
    free-rider     hardly ever acts, and idling saves it something or its teammates' shares rose
    lazy-idle      hardly ever acts
    lazy-busy      acts

So lazy means: its effect is small under every reference, nobody stands in for it, and somebody in its place would do better. An agent
that is worse than *random* but no worse than doing nothing is not harmful: random helps there.
"""

from dataclasses import dataclass
from typing import Literal

CLASSES: dict[str, str] = {
    "contributing": "earns its place",
    "lazy-idle": "does not earn its place and hardly ever acts, though it could",
    "lazy-busy": "acts, but does not earn its place, though it could",
    "not-needed": "the task leaves nothing for it to earn",
    "redundant": "teammates can do its part",
    "harmful": "the team is better without it",
    "guard": "hardly ever acts, and earns its place by that",
    "free-rider": "lets its teammates work and gains by it",
    "not-assessed": "is dead or without a choice nearly always",
    "undecided": "cannot be told yet",
}
"""Every class as JSON names it, and in words."""
LAZY = ("lazy-idle", "lazy-busy", "free-rider")
"""Those that say an agent does not pull its weight."""


@dataclass(frozen=True)
class CloserLook:
    """What is looked up only of an agent whose effect is small."""

    share: tuple[float | None, ...]
    """Shapley value per reference, in team return; None where it was not measured."""
    substitutes: tuple[str, ...]
    """Teammates with whom its interaction is clearly negative: each does what the other leaves."""
    headroom: float | None
    """The largest mean gain, in team return, with another policy in its place; None where none was tried."""
    stand_in: str
    """Whose policy that was."""
    room: Literal["shown", "excluded", "open"]
    """shown: some stand-in does better by the margin; excluded: none of them does; open: neither is shown."""
    influence: float | None
    """How often another action of the agent changes what comes next; None where it was not measured."""
    gains_by_idling: bool
    """Idling saves the agent a cost of its own, or its teammates' shares rose while its own fell."""
    env_steps: int
    """Played for this look."""


def classify(
    *,
    above: bool,
    below: bool,
    harms: bool,
    effort: float | None,
    has_choice: float | None,
    look: CloserLook | None,
    delta: tuple[float, ...],
    acting: bool = False,
    idle_below: float = 0.1,
    choice_floor: float = 0.02,
) -> str:
    """The class of one agent by the rules above.

    Args:
        above: shown: the effect is above the margin under some reference.
        below: shown: it is below the margin under every reference.
        harms: shown: it is below 0 against doing nothing.
        effort: P(an action other than no-op | it had a choice); None without a no-op: such an agent cannot idle.
        has_choice: share of env steps at which it was alive and had a choice; None: not counted.
        look: what a closer look found; None where nobody looked, then the last rules alone separate the lazy ones.
        delta: the margin per reference, as `look.share`.
        acting: shown: the effect is above the margin against doing nothing.
        idle_below: efforts below this are idle.
        choice_floor: below this share of steps an agent is not assessed.
    """
    idle = effort is not None and effort < idle_below
    if has_choice is not None and has_choice < choice_floor:
        return "not-assessed"
    if harms:
        return "harmful"
    if above:
        return "guard" if idle and not acting else "contributing"
    if not below:
        return "undecided"
    if look is not None:
        if look.substitutes or any(share is not None and share >= least for share, least in zip(look.share, delta, strict=True)):
            return "redundant"
        if look.room != "shown":
            return "not-needed" if look.room == "excluded" else "undecided"
        if idle and look.gains_by_idling:
            return "free-rider"
    return "lazy-idle" if idle else "lazy-busy"
