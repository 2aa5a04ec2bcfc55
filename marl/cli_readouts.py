"""Methods of `marl credit` that give more than a figure per agent: pairs of agents, steps x agents, inputs.

Each is a line of READOUTS: how it is measured, as JSON, and as text. Nothing heavy is imported before one is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from .cli_output import table, with_interval
from .errors import ConfigError

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
    check: Callable[["Run", Asked], None]
    """ConfigError for what cannot be measured, before anything is played."""
    document: Callable[["Run", Asked], dict[str, Any]]
    text: Callable[[Mapping[str, Any]], str]
    per_reference: bool = True
    """Measured once for every reference; else once."""
    options: tuple[str, ...] = ()
    """The options in `ReadoutOptions` that it reads."""


def refuse_stray_options(methods: Sequence[str], options: ReadoutOptions) -> None:
    """ConfigError for an option that none of the methods asked for reads."""
    read = {name for method in methods if method in READOUTS for name in READOUTS[method].options}
    for item in fields(ReadoutOptions):
        if item.name not in read and getattr(options, item.name) != item.default:
            owners = [method for method, readout in READOUTS.items() if item.name in readout.options]
            raise ConfigError(f"--{item.name.replace('_', '-')} is an option of --method {' and '.join(owners)}, which was not asked for")


def _episodes(name: str, asked: Asked, least: int = 2) -> int:
    episodes = READOUTS[name].episodes if asked.episodes is None else asked.episodes
    if episodes < least:
        raise ConfigError(f"--episodes {episodes} is too few for {name}: at least {least}")
    return episodes


def _check_interactions(run: "Run", asked: Asked) -> None:
    from .inspection import check_pairs

    check_pairs(run, _episodes("interactions", asked))


def _check_switch_off(run: "Run", asked: Asked) -> None:
    from .policies import StandIn
    from .references import make_reference
    from .switch_off import check_switch_off

    options = asked.options
    check_switch_off(episodes=_episodes("switch-off", asked, 1), rollouts=options.rollouts, every=options.every, gamma=1.0)
    policy = make_reference(asked.reference, run).policy
    if isinstance(policy, StandIn) and policy.team.utility.memory_dim:
        raise ConfigError(
            f"{asked.reference} is recurrent and needs its memory from the episode's start: switch-off switches in mid-episode"
        )


def _check_temporal(run: "Run", asked: Asked) -> None:
    if asked.reference not in ("noop", "random"):
        raise ConfigError(f"temporal credit replaces single actions, so its reference is noop or random, not {asked.reference}")
    if asked.options.return_model not in (None, "rrd", "rudder"):
        raise ConfigError(f'--return-model "{asked.options.return_model}": use rrd or rudder')
    _episodes("temporal", asked)


def _check_inputs(run: "Run", asked: Asked) -> None:
    options = asked.options
    if options.baseline not in ("mean", "zero"):
        raise ConfigError(f'--baseline "{options.baseline}": use mean or zero')
    if options.window < 1:
        raise ConfigError(f"--window {options.window} must be at least 1")
    if options.agent is not None:
        from .policies import agent_index

        try:
            agent_index(options.agent, run.env.spec)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    _episodes("inputs", asked)


def _interactions(run: "Run", asked: Asked) -> dict[str, Any]:
    from .inspection import measure_pairs
    from .references import make_reference

    stand = make_reference(asked.reference, run)
    found = measure_pairs(run, reference=stand, episodes=_episodes("interactions", asked))
    agents = run.env.spec.agents
    pairs = [
        {"agents": [agents[i], agents[j]], "value": float(found.value[i, j]), "interval": [float(found.low[i, j]), float(found.high[i, j])]}
        for i in range(len(agents))
        for j in range(i + 1, len(agents))
    ]
    return {
        "reference": found.reference,
        "reference_digest": stand.reference.digest,
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
    from .references import make_reference
    from .switch_off import measure_switch_off

    options, episodes = asked.options, _episodes("switch-off", asked, 1)
    wanted: dict[str, Any] = {"episodes": episodes, "rollouts": options.rollouts, "every": options.every, "seed": asked.seed}
    document = switch_off_document(run, measure_switch_off(run, reference=asked.reference, **wanted))
    return {**document, "reference_digest": make_reference(asked.reference, run).reference.digest}


def _switch_off_text(document: Mapping[str, Any]) -> str:
    from .cli_switch_off import switch_off_text

    return switch_off_text(document)


def _temporal(run: "Run", asked: Asked) -> dict[str, Any]:
    from .cli_temporal import temporal_document
    from .temporal_reading import measure_temporal

    options, episodes = asked.options, _episodes("temporal", asked)
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

    options, episodes = asked.options, _episodes("inputs", asked)
    wanted: dict[str, Any] = {"agent": options.agent, "action": options.action, "baseline": options.baseline, "window": options.window}
    return inputs_document(run, measure_inputs(run, episodes=episodes, seed=asked.seed, **wanted))


def _inputs_text(document: Mapping[str, Any]) -> str:
    from .cli_inputs import inputs_text

    return inputs_text(document)


READOUTS: dict[str, Readout] = {
    "interactions": Readout(64, _check_interactions, _interactions, _interactions_text),
    "switch-off": Readout(4, _check_switch_off, _switch_off, _switch_off_text, options=("every", "rollouts")),
    "temporal": Readout(16, _check_temporal, _temporal, _temporal_text, options=("return_model", "refit")),
    "inputs": Readout(16, _check_inputs, _inputs, _inputs_text, per_reference=False, options=("agent", "action", "baseline", "window")),
}
"""Method -> readout."""
