"""`marl credit --method inputs` as JSON and as text: a table of groups per agent, what the integral missed, and the baseline."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .cli_output import number, table, with_interval

if TYPE_CHECKING:
    from .attribution import AgentInputs, InputAttribution
    from .run import Run

MOST_GROUPS = 8
"""Groups in an agent's table; the rest is one row."""
READING = (
    "attribution: mean over episodes of the mean over their decisions; with signs, a positive one raises the target. size: the mean of its "
    "absolute value. share: of the sum of sizes. In brackets the 95% interval (t over episodes, approximate). It describes the network, "
    "not the world: what an agent's decisions lean on need not be what earns the team's return."
)


def inputs_document(run: "Run", result: "InputAttribution") -> dict[str, Any]:
    """The keys of the estimate; agents without an attribution are in `not_attributed`, with the reason."""
    return {
        "method": "inputs",
        "run": str(run.folder),
        "env_steps": run.env_steps,
        "target": result.target,
        "unit": result.unit,
        "baseline": result.baseline,
        "memory": result.memory or None,
        "window": result.window,
        "estimator": "integrated gradients",
        "interval": "95%, t over episodes, approximate",
        "episodes": result.episodes,
        "env_steps_played": result.env_steps,
        "agents": {name: _agent_document(agent) for name, agent in result.agents.items()},
        "not_attributed": dict(result.not_attributed),
    }


def _agent_document(agent: "AgentInputs") -> dict[str, Any]:
    columns = (agent.value, agent.low, agent.high, agent.size, agent.size_low, agent.size_high, agent.share)
    rows = zip(agent.groups, agent.features, *(column.tolist() for column in columns), strict=True)
    return {
        "groups": {
            name: {
                "value": value,
                "interval": _interval(low, high),
                "size": size,
                "size_interval": _interval(size_low, size_high),
                "share": share,
                "features": list(features),
            }
            for name, features, value, low, high, size, size_low, size_high, share in rows
        },
        "at_decision": agent.at_decision,
        "at_baseline": agent.at_baseline,
        "lags": {
            "share": agent.lag_share.tolist(),
            "size": dict(zip(agent.groups, agent.by_lag.T.tolist(), strict=True)),
        },
        "completeness": {
            "error_mean": agent.error_mean,
            "error_max": agent.error_max,
            "relative_error_mean": agent.relative_error_mean,
            "relative_error_max": agent.relative_error_max,
            "steps_mean": agent.steps_mean,
            "steps_max": agent.steps_max,
            "not_converged": agent.not_converged,
        },
        "decisions": agent.decisions,
        "decisions_seen": agent.decisions_seen,
        "episodes": agent.episodes,
    }


def _interval(low: float, high: float) -> list[float] | None:
    return None if math.isnan(low) else [low, high]


def inputs_text(document: Mapping[str, Any]) -> str:
    """A table per agent with a sentence on completeness, then what was asked and how to read it."""
    title = f"inputs behind the decisions of {document['run']} at {document['env_steps']:,} env steps, in units of {document['unit']}"
    parts = [title, f"target: {document['target']}."]
    parts += [_agent_text(name, agent) for name, agent in document["agents"].items()]
    parts += [f"not attributed: {why}." for why in document["not_attributed"].values()]
    parts.append(f"baseline: {document['baseline']}.")
    if document["memory"] is not None:
        parts.append(f"memory: {document['memory']}.")
    return "\n".join([*parts, READING])


def _agent_text(name: str, agent: Mapping[str, Any]) -> str:
    groups = sorted(agent["groups"].items(), key=lambda item: -item[1]["size"])
    shown, rest = (groups, []) if len(groups) <= MOST_GROUPS + 1 else (groups[:MOST_GROUPS], groups[MOST_GROUPS:])
    rows = [
        (
            group,
            with_interval(entry["value"], entry["interval"]),
            with_interval(entry["size"], entry["size_interval"]),
            _share(entry["share"]),
        )
        for group, entry in shown
    ]
    if rest:
        value, size, share = (sum(entry[key] for _, entry in rest) for key in ("value", "size", "share"))
        rows.append((f"{len(rest)} other groups", number(value), number(size), _share(share)))
    drawn = "" if agent["decisions"] == agent["decisions_seen"] else f" drawn from {agent['decisions_seen']:,}"
    header = (name, "attribution", "size", "share")
    mean = f"{number(agent['at_decision'])} at the decisions, {number(agent['at_baseline'])} at the baseline"
    lines = [
        table(header, rows),
        f"{name}: {agent['decisions']:,} decisions{drawn}; mean target {mean}.",
        _completeness(name, agent["completeness"]),
    ]
    if math.isnan(agent["lags"]["share"][0]):
        lines.append(f"{name}: no input moved the target: at every decision the network says what it says at the baseline.")
    elif len(agent["lags"]["share"]) > 1:
        shares = ", ".join(f"{share:.0%}" for share in agent["lags"]["share"])
        lines.append(f"{name}: share by age of the observation, the decision's own first: {shares}.")
    return "\n".join(lines)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"


def _completeness(name: str, found: Mapping[str, Any]) -> str:
    sentence = (
        f"{name}: completeness error {number(found['error_mean'])} on average, {number(found['error_max'])} at most "
        f"({found['relative_error_mean']:.2%} and {found['relative_error_max']:.2%} of what is attributed), "
        f"from {found['steps_mean']:.0f} gradients per decision ({found['steps_max']:,} at most)."
    )
    if found["not_converged"]:
        sentence += f" {found['not_converged']:,} decisions did not reach the tolerance: their values are rougher than the rest."
    return sentence
