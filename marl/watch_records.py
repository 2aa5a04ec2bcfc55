"""What a watch tells: lines of the credit timeline and alarms, as records of metrics.jsonl with a sentence for people."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..credit.intervals import t_interval
from .watch import Alarm

IDLE_BELOW = 0.1
"""As in credit/classes.py: an agent with less effort is idle."""


def timeline(differences: Float[Tensor, "agent reference pair"], agents: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Each agent's mean difference at a look, with a 95% t interval to which one imaginary pair at the worst difference seen was added."""
    low, high = t_interval(differences, worst=max(float(differences.abs().max()), 1e-9))
    return {
        agent: {
            name: {"effect": float(differences[i, r].mean()), "interval": [float(low[i, r]), float(high[i, r])]}
            for r, name in enumerate(references)
        }
        for i, agent in enumerate(agents)
    }


def by_reference(values: Float[Tensor, " reference"], references: Sequence[str]) -> dict[str, float | None]:
    """Numbers by reference; None where there is none (NaN)."""
    return {name: None if value != value else value for name, value in zip(references, values.tolist(), strict=True)}


def alarm_record(
    alarm: Alarm, agent: str, references: Sequence[str], *, effort: float | None, approximate: bool, teammates_earn: bool, collapsed: bool
) -> dict[str, Any]:
    """An alarm about one agent, without its env steps.

    Args:
        alarm: from watch.py.
        agent: its name.
        references: names in the order of the alarm's numbers.
        effort: P(an action other than its no-op | it had a choice).
        approximate: the task declares no range of returns.
        teammates_earn: some teammate earned more than the margin at this look.
        collapsed: the team as it is does not clearly beat its references, though it did before.
    """
    record = {
        "event": alarm.kind, "agent": agent, "text": _sentence(alarm, agent, references, approximate), "pairs": alarm.pairs,
        "effort": effort, "evidence": alarm.evidence, "effect": dict(zip(references, alarm.effect, strict=True)),
        "delta": by_reference(torch.tensor(alarm.delta, dtype=torch.float64), references),
    }  # fmt: skip
    if alarm.kind != "lazy":
        return record
    if collapsed:
        record["text"] += "; the team as it is does not clearly beat its references, which it did before"
    if not teammates_earn:
        record["text"] += "; the absence of no teammate costs anything either, so it may only depend on one that idles"
    verdict = "lazy-idle" if effort is not None and effort < IDLE_BELOW else "lazy-busy"
    return record | {"verdict": verdict, "approximate": approximate, "teammates_earn": teammates_earn}


def _sentence(alarm: Alarm, agent: str, references: Sequence[str], approximate: bool) -> str:
    losses = " and ".join(f'{effect:.3g} with "{name}"' for effect, name in zip(alarm.effect, references, strict=True))
    loss = f"the team loses {losses} in its place, over {alarm.pairs} pairs of episodes"
    margin = " and ".join(f"{delta:.3g}" for delta in alarm.delta)
    about = " (approximately: the task declares no range of returns)" if approximate else ""
    return {
        "suspect": f"{agent} may not pull its weight: {loss}; it is tested",
        "cleared": f"{agent} pulls its weight: {loss}",
        "undecided": f"{agent} cannot be judged: {loss}; the margin is {margin}",
        "lazy": f"{agent} does not pull its weight{about}: {loss}, less than {margin}; whether teammates stand in for it, or nobody could "
        "do better there, was not looked at (marl lazy RUN does)",
        "recovered": f"{agent} pulls its weight again: {loss}",
    }[alarm.kind]
