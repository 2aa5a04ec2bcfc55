"""What `marl credit --method critic` adds: calibration, the verdict on the critic, and COMA's advantage as what it is."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .cli_output import number, table, with_interval

if TYPE_CHECKING:
    from ..credit.calibration import Calibration
    from .critic_credit import CriticCredit
    from .run import Run

WEIGHT = "gradient weight |A_i| (COMA advantage; its mean is 0 for everybody, so it ranks nobody)"


def critic_document(run: "Run", credit: "CriticCredit") -> dict[str, Any]:
    """The keys that only a critic's estimate has."""
    agents, forks = run.env.spec.agents, credit.forks
    by_fork = {} if forks is None else {
        name: {"claimed": claimed, "real": real, "interval": None if math.isnan(low) else [low, high], "forks": count}
        for name, claimed, real, low, high, count in zip(
            agents, *(values.tolist() for values in (forks.claimed, forks.real, forks.low, forks.high, forks.number)), strict=True
        )
    }  # fmt: skip
    return {
        "calibration": {
            "returns": None if credit.returns is None else {**asdict(credit.returns), "own_share": credit.own_share},
            "forks": None if forks is None else {**asdict(forks.calibration), "agents": by_fork},
        },
        "reliable": credit.reliable,
        "why": credit.why,
        "gradient_weight": {
            "meaning": WEIGHT,
            "unit": "discounted team return",
            "agents": dict(zip(agents, credit.gradient_weight.tolist(), strict=True)),
        },
        "planted": dict(run.team.planted),
    }


def critic_text(item: Mapping[str, Any]) -> str:
    """Under the table of credit: what the critic is worth, first the verdict."""
    name = f"critic ({item['reference']})"
    untested = item["reliable"] is None and item["calibration"]["forks"] is None
    undecided = "critic not tested" if untested else "critic undecided"
    word = {True: "critic reliable", False: "critic unreliable", None: undecided}[item["reliable"]]
    lines = [f"{name}: {word}: {item['why']}." + (" --forks 32 replaces some and plays on." if untested else "")]
    if item["planted"]:
        planted = ", ".join(f"{agent} ({policy})" for agent, policy in item["planted"].items())
        lines.append(f"{name}: not measured: {planted} did not learn, so to the critic it is part of the environment.")
    returns, forks = item["calibration"]["returns"], item["calibration"]["forks"]
    if returns is None:
        lines.append(
            "calibration: returns: none; every step lies so near the time limit that most of its return would be the critic's own."
        )
    else:
        cut = f" {returns['own_share']:.0%} of the real return is the critic's own value of last views of truncated episodes."
        lines.append(
            f"calibration: returns: {_figures(returns, 'steps')}. Q(s, u) against the discounted return that followed."
            + (cut if returns["own_share"] > 0 else "")
        )
    if forks is not None:
        lines.append(
            f"calibration: one-action forks: {_figures(forks, 'replaced actions')}. "
            "Claimed loss of discounted return against the real one up to the episode's end:"
        )
        rows = [(agent, number(entry["claimed"]), number(entry["real"]), str(entry["forks"])) for agent, entry in forks["agents"].items()]
        lines.append(table(("agent", "claimed", "real", "replaced actions"), rows))
    weights = item["gradient_weight"]["agents"]
    rows = [(agent, "not measured" if math.isnan(weight) else number(weight)) for agent, weight in weights.items()]
    return "\n".join([*lines, table(("agent", WEIGHT), rows)])


def _figures(found: "Calibration | Mapping[str, Any]", what: str) -> str:
    figures: Mapping[str, Any] = found if isinstance(found, Mapping) else asdict(found)
    explained = with_interval(figures["explained_variance"], figures["explained_variance_interval"])
    correlation = with_interval(figures["correlation"], figures["correlation_interval"])
    return (
        f"explained variance {explained}, correlation {correlation}, slope {number(figures['slope'])}, intercept "
        f"{number(figures['intercept'])}, bias {number(figures['bias'])}; {figures['samples']} {what} of {figures['episodes']} episodes"
    )
