"""Evaluations and credit as JSON (keys that stay, pinned by a test) and as tables for people."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .cli_critic import critic_document, critic_text
from .cli_output import number, table, to_json, with_interval

if TYPE_CHECKING:
    from ..credit.base import Credit
    from .evaluate import Evaluation
    from .run import Run


def evaluation_document(run: "Run", result: "Evaluation") -> dict[str, Any]:
    """`marl eval --json`."""
    return {
        "run": str(run.folder),
        "env_steps": run.env_steps,
        "episodes": len(result.returns),
        "return": {"mean": result.mean, "interval": result.interval},
        "agent_return": result.agent_return,
        "resampled": "episodes",
    }


def evaluation_text(document: Mapping[str, Any]) -> str:
    """`marl eval`."""
    outcome = document["return"]
    lines = [
        f"return  {with_interval(outcome['mean'], outcome['interval'])} per episode: mean of {document['episodes']} episodes"
        + ("" if outcome["interval"] is None else " and its 95% interval (episodes were resampled)")
    ]
    if document["agent_return"] is not None:
        lines.append(table(("agent", "its own return"), [(name, number(value)) for name, value in document["agent_return"].items()]))
    return "\n".join(lines)


def estimate_document(run: "Run", method: str, credit: "Credit") -> dict[str, Any]:
    """One entry of `estimates` in `marl credit --json`; of a critic's, with what is to be thought of that critic."""
    from .critic_credit import CriticCredit
    from .mixer_reading import MixerCredit

    values = credit.value.tolist()
    no_interval = credit.low is None or credit.high is None
    intervals = [None] * len(values) if no_interval else list(zip(credit.low.tolist(), credit.high.tolist(), strict=True))  # pyright: ignore[reportOptionalMemberAccess]
    return {
        "method": method,
        "reference": credit.reference,
        "reference_digest": credit.reference_digest,
        "estimand": credit.estimand,
        "unit": credit.unit,
        "env_steps": run.env_steps,
        "agents": {
            name: {"value": value, "interval": None if interval is None or math.isnan(interval[0]) else interval}
            for name, value, interval in zip(run.env.spec.agents, values, intervals, strict=True)
        },
        "estimator": credit.method,
        "total": credit.total,
        "episodes": credit.episodes,
        "env_steps_played": credit.env_steps,
        "resampled": credit.resampled,
        "approximate": credit.approximate,
        **(critic_document(run, credit) if isinstance(credit, CriticCredit) else {}),
        **({"sum_error": credit.sum_error, "draws": credit.draws} if isinstance(credit, MixerCredit) else {}),
    }


def comparison_document(run: "Run", methods: Sequence[str], estimates: Sequence["Credit"]) -> dict[str, Any]:
    """How far several estimates of one team agree, and what to bear in mind about each."""
    from ..credit.agreement import agreement
    from .credit_flags import flags

    matrix = agreement(estimates).tolist()
    names = [f"{method} ({credit.reference})" for method, credit in zip(methods, estimates, strict=True)]
    return {
        "agreement": {"measure": "Spearman's rank correlation over agents", "estimates": names, "matrix": matrix},
        "flags": [asdict(flag) for flag in flags(run, methods, estimates, matrix)],
    }


def credit_text(run: "Run", estimates: Sequence[Mapping[str, Any]], comparison: Mapping[str, Any] | None = None) -> str:
    """`marl credit`: agents down, estimates across, and under it what each column says and how far they agree."""
    from .inspection import EPISODE_METHODS

    columns = [_column(item) for item in estimates]
    rows = [(name, *(_credit_cell(item["agents"][name]) for item in estimates)) for name in run.env.spec.agents]
    notes = [
        f"{column}: {item['estimand']}; in {item['unit']}, from {item['episodes']} "
        f"{'paired ' if item['method'] in EPISODE_METHODS else ''}episodes. "
        f"In brackets the 95% interval ({item['resampled']})."
        for column, item in zip(columns, estimates, strict=True)
    ]
    title = f"credit of {run.name} at {run.env_steps:,} env steps: what each agent earns for the team"
    critics = [critic_text(item) for item in estimates if "reliable" in item]
    compared = [] if comparison is None else comparison_text(comparison)
    return "\n".join([title, table(("agent", *columns), rows), *notes, *critics, *compared])


def _column(item: Mapping[str, Any]) -> str:
    later = f", from step {item['from_step']} on" if "from_step" in item else ""
    return f"{item['method']} ({item['reference']}{later})"


def comparison_text(comparison: Mapping[str, Any]) -> list[str]:
    """The agreement of several estimates as a table, then what to bear in mind, warnings first."""
    lines, names = [], comparison["agreement"]["estimates"]
    if len(names) > 1:
        matrix = comparison["agreement"]["matrix"]
        rows = [(name, *(_correlation(value) for value in row)) for name, row in zip(names, matrix, strict=True)]
        lines += ["agreement (Spearman's rank correlation over agents; -: no order to compare)", table(("", *names), rows)]
    lines += [f"{flag['level']}: {'' if flag['about'] == 'all' else flag['about'] + ': '}{flag['text']}." for flag in comparison["flags"]]
    return lines


def _correlation(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}"


def _credit_cell(entry: Mapping[str, Any]) -> str:
    return "not measured" if math.isnan(entry["value"]) else with_interval(entry["value"], entry["interval"])


def keep(run: "Run", name: str, document: Mapping[str, Any]) -> str:
    """Stores a finding in the run folder, as credit/<name>-step_<env steps>.json; its path."""
    from .checkpoint import disk_error
    from .folder import write_atomically

    folder = run.folder / "credit"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from error
    path = folder / f"{name}-step_{run.env_steps}.json"
    write_atomically(path, json.dumps(json.loads(to_json(document)), indent=2) + "\n")
    return str(path)
