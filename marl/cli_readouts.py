"""Methods of `marl credit` that give more than a figure per agent: pairs of agents, steps x agents, inputs.

Each is a line of READOUTS: how it is measured, as JSON, and as text. Nothing heavy is imported before one is used.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from .cli_output import table, with_interval

if TYPE_CHECKING:
    from .run import Run

READOUT = Group("Steps, pairs and inputs", sort_key=2)


@dataclass(frozen=True)
class ReadoutOptions:
    """Options of the methods that look at steps, pairs or inputs."""

    every: Annotated[int, Parameter(metavar="N")] = 1
    """switch-off: keep every N-th step."""
    rollouts: Annotated[int, Parameter(metavar="N")] = 64
    """switch-off: continuations played of every kept step and set of agents."""
    return_model: Annotated[str | None, Parameter(metavar="rrd|rudder")] = None
    """temporal: the model of returns; default: the run's own, else rudder, fitted to fresh episodes."""
    refit: bool = False
    """temporal: fit a model to fresh episodes even where the run has one."""
    agent: str | None = None
    """inputs: this agent alone."""
    action: str | None = None
    """inputs: explain this action's utility instead of the gap between the chosen action and the runner-up."""
    baseline: Annotated[str, Parameter(metavar="mean|zero")] = "mean"
    """inputs: the observation that stands for "nothing seen"."""
    window: Annotated[int, Parameter(metavar="N")] = 8
    """inputs: steps that recurrent agents' inputs are followed back."""


NO_OPTIONS = ReadoutOptions()
AllReadoutOptions = Annotated[ReadoutOptions, Parameter(name="*", group=READOUT)]


@dataclass(frozen=True)
class Asked:
    """What the command line asked of a readout."""

    reference: str
    episodes: int | None
    seed: int
    options: ReadoutOptions


@dataclass(frozen=True)
class Readout:
    """How one such method is measured and shown."""

    episodes: int
    """Episodes where nobody says how many."""
    document: Callable[["Run", Asked], dict[str, Any]]
    text: Callable[[Mapping[str, Any]], str]
    per_reference: bool = True
    """Measured once for every reference; else once."""


def _interactions(run: "Run", asked: Asked) -> dict[str, Any]:
    from .inspection import measure_pairs

    found = measure_pairs(run, reference=asked.reference, episodes=asked.episodes or READOUTS["interactions"].episodes)
    agents = run.env.spec.agents
    pairs = [
        {"agents": [agents[i], agents[j]], "value": float(found.value[i, j]), "interval": [float(found.low[i, j]), float(found.high[i, j])]}
        for i in range(len(agents))
        for j in range(i + 1, len(agents))
    ]
    return {
        "reference": found.reference,
        "estimand": "what two agents earn together beyond what each earns alone, over all orders (Shapley interaction index)",
        "unit": "team return",
        "pairs": pairs,
        "episodes": found.episodes,
        "env_steps_played": found.env_steps,
        "resampled": found.resampled,
    }


def _interactions_text(document: Mapping[str, Any]) -> str:
    rows = [(" + ".join(pair["agents"]), with_interval(pair["value"], pair["interval"])) for pair in document["pairs"]]
    return (
        f"interactions ({document['reference']}): {document['estimand']}, in {document['unit']}; below 0: they stand in for each other, "
        f"above 0: they need each other ({document['resampled']})\n" + table(("pair", "interaction"), rows)
    )


def _switch_off(run: "Run", asked: Asked) -> dict[str, Any]:
    from .cli_switch_off import switch_off_document
    from .switch_off import measure_switch_off

    options, episodes = asked.options, asked.episodes or READOUTS["switch-off"].episodes
    wanted: dict[str, Any] = {"episodes": episodes, "rollouts": options.rollouts, "every": options.every, "seed": asked.seed}
    return switch_off_document(run, measure_switch_off(run, reference=asked.reference, **wanted))


def _switch_off_text(document: Mapping[str, Any]) -> str:
    from .cli_switch_off import switch_off_text

    return switch_off_text(document)


def _temporal(run: "Run", asked: Asked) -> dict[str, Any]:
    from .cli_temporal import temporal_document
    from .temporal_reading import measure_temporal

    options, episodes = asked.options, asked.episodes or READOUTS["temporal"].episodes
    found = measure_temporal(
        run, episodes=episodes, seed=asked.seed, reference=asked.reference, model=options.return_model, refit=options.refit
    )
    return temporal_document(run, found)


def _temporal_text(document: Mapping[str, Any]) -> str:
    from .cli_temporal import temporal_text

    return temporal_text(document)


def _inputs(run: "Run", asked: Asked) -> dict[str, Any]:
    from .attribution import measure_inputs
    from .cli_inputs import inputs_document

    options, episodes = asked.options, asked.episodes or READOUTS["inputs"].episodes
    wanted: dict[str, Any] = {"agent": options.agent, "action": options.action, "baseline": options.baseline, "window": options.window}
    return inputs_document(run, measure_inputs(run, episodes=episodes, seed=asked.seed, **wanted))


def _inputs_text(document: Mapping[str, Any]) -> str:
    from .cli_inputs import inputs_text

    return inputs_text(document)


READOUTS: dict[str, Readout] = {
    "interactions": Readout(64, _interactions, _interactions_text),
    "switch-off": Readout(4, _switch_off, _switch_off_text),
    "temporal": Readout(16, _temporal, _temporal_text),
    "inputs": Readout(16, _inputs, _inputs_text, per_reference=False),
}
"""Method -> readout."""
