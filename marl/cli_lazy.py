"""The verdicts of `marl lazy` as JSON (keys that stay, pinned by a test) and as a table with a sentence per agent."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .cli_output import number, table, with_interval
from .errors import ConfigError

if TYPE_CHECKING:
    from ..credit.verdict import Verdict
    from .laziness import LazyReport
    from .run import Run

NOT_LOOKED = (
    "Nobody looked closer (--no-look): of two agents that can stand in for each other each looks lazy alone, and an agent that the task "
    "does not need looks lazy too."
)


def parse_range(text: str | None) -> tuple[float, float] | None:
    """ "LO,HI" as two numbers; ConfigError for anything else."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f'--return-range "{text}" is no range', remedy="write the lowest and highest possible team return: --return-range=0,1"
        ) from error
    return low, high


def lazy_document(run: "Run", report: "LazyReport") -> dict[str, Any]:
    """`marl lazy --json`."""
    from ..credit.lazy import floor_range
    from .checkpoint import digest_of
    from .laziness import RULE

    margin = report.margin
    floor = None if margin.problem is not None else dict(zip(("first", "last"), floor_range(margin, report.alpha), strict=True))
    return {
        "run": str(run.folder),
        "env_steps": run.env_steps,
        "checkpoint": {"name": run.checkpoint.name, "digest": digest_of(run.checkpoint)},
        "policy": run.config.acts,
        "margin": margin.fraction,
        "margins": dict(zip(margin.references, margin.delta.tolist(), strict=True)),
        "gains": dict(zip(margin.references, margin.gain.tolist(), strict=True)),
        "unit": "team return per episode, raw reward units",
        "return_width": margin.bound,
        "references": {one.name: {"digest": one.digest, "words": one.words} for one in report.references},
        "agents": {
            verdict.name: _agent_document(verdict, margin.num_agents, influence)
            for verdict, influence in zip(report.verdicts, report.influence, strict=True)
        },
        "candidates": report.candidates,
        "floor": floor,
        "alpha": report.alpha,
        "multiplicity": RULE,
        "paired": report.paired,
        "seed": report.seed,
        "env_steps_played": report.env_steps,
        "env_steps_by_stage": report.stages,
        "problem": margin.problem,
    }


def _agent_document(verdict: "Verdict", num_agents: int, influence: float | None) -> dict[str, Any]:
    from ..credit.words import explain

    columns = zip(
        verdict.references, verdict.effect, verdict.low, verdict.high, verdict.delta, verdict.pivotal, verdict.identical, strict=True
    )
    references = {
        name: {"effect": effect, "interval": [low, high], "margin": delta, "pivotal": pivotal, "identical": same}
        for name, effect, low, high, delta, pivotal, same in columns
    }
    look = verdict.look
    if look is not None:
        for entry, share, gain in zip(references.values(), look.share, verdict.gain, strict=True):
            entry |= {"share": share, "share_times_n": None if share is None else num_agents * share / gain}
    return {
        "verdict": verdict.verdict,
        "episodes": verdict.episodes,
        "references": references,
        "effort": verdict.effort,
        "has_choice": verdict.has_choice,
        "influence": influence,
        "substitutes": None if look is None else look.substitutes,
        "headroom": None if look is None else {"gain": look.headroom, "stand_in": look.stand_in, "room": look.room},
        "gains_by_idling": None if look is None else look.gains_by_idling,
        "more_episodes_needed": verdict.needed,
        "approximate": verdict.approximate,
        "sentence": explain(verdict),
    }


def lazy_text(run: "Run", document: Mapping[str, Any]) -> str:
    """`marl lazy`: a row per agent, what the columns are, then a sentence per agent."""
    references = list(document["margins"])
    rows = [_row(name, entry, references) for name, entry in document["agents"].items()]
    lost = (f"lost with {reference} instead [95%]" for reference in references)
    header = ("agent", "verdict", *lost, "share x n", "pivotal", "acts", "influence", "headroom", "pairs")
    margins = ", ".join(f"{number(delta)} against {reference}" for reference, delta in document["margins"].items())
    gains = ", ".join(f"{number(gain)} over {reference}" for reference, gain in document["gains"].items())
    digests = ", ".join(f"{name} {entry['digest']}" for name, entry in document["references"].items())
    at = document["checkpoint"]
    judged = (
        f"The team gains {gains}. Margin: {document['margin']:g} of an equal share of that, {margins} ({document['unit']})"
        if document["problem"] is None
        else f"Nobody is judged: {document['problem']}"
    )
    where = f"{document['policy']} policies; checkpoint {at['name']}, {at['digest']}"
    title = f"verdicts for {run.name} at {run.env_steps:,} env steps ({where}). {judged}"
    stages = ", ".join(f"{name} {steps:,}" for name, steps in document["env_steps_by_stage"].items())
    notes = [
        f"{document['env_steps_played']:,} env steps played: {stages}. References: {digests}",
        f"Error rate {document['alpha']:g} for each kind of claim: {document['multiplicity']}",
    ]
    if any(effect["identical"] for entry in document["agents"].values() for effect in entry["references"].values()):
        notes.append("=: the agent's policy acts just as this reference does")
    if any(entry["headroom"] is not None for entry in document["agents"].values()):
        notes.append(
            f"headroom: what the team gains by the best policy tried in its place, shown or excluded against the largest margin; "
            f"tried: {', '.join(document['candidates'])}"
        )
    if not document["paired"]:
        notes.append("warning: episodes are not paired, since the same seed does not give the same episode in this task")
    if lazy_names(document) and not document["candidates"]:
        notes.append(NOT_LOOKED)
    sentences = [] if document["problem"] else [entry["sentence"] for entry in document["agents"].values()]
    return "\n".join([title, table(header, rows), *notes, *sentences])


def _row(name: str, entry: Mapping[str, Any], references: list[str]) -> tuple[str, ...]:
    effects = [entry["references"].get(reference) for reference in references]
    seen = [effect for effect in effects if effect is not None]
    lost = [
        "-" if effect is None else with_interval(effect["effect"], effect["interval"]) + ("=" if effect["identical"] else "")
        for effect in effects
    ]
    room = entry["headroom"]
    headroom = "-" if room is None or room["gain"] is None else f"{room['gain']:+.3g} {room['room']} ({room['stand_in']})"
    return (
        name,
        entry["verdict"],
        *lost,
        " / ".join(number(effect["share_times_n"]) for effect in seen) if seen and "share_times_n" in seen[0] else "-",
        " / ".join(_percent(effect["pivotal"]) for effect in seen) or "-",
        _percent(entry["effort"]),
        _percent(entry["influence"]),
        headroom,
        str(entry["episodes"]),
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def lazy_names(document: Mapping[str, Any], *, undecided: bool = False) -> list[str]:
    """The agents called lazy, free-riders included, or those undecided."""
    from ..credit.classes import LAZY

    wanted = ("undecided",) if undecided else LAZY
    return [name for name, entry in document["agents"].items() if entry["verdict"] in wanted]
