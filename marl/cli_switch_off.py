"""The switch-off matrix as JSON, and as a table of steps and agents for people."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .cli_output import number, table

if TYPE_CHECKING:
    from .run import Run
    from .switch_off import SwitchOff

ROWS_SHOWN = 24
"""Rows of an episode that are printed; of longer episodes those with the largest entries."""


def switch_off_document(run: "Run", result: "SwitchOff") -> dict[str, Any]:
    """One entry of `estimates` in `marl credit --json`: each agent's mean column sum, and every episode's whole matrix."""
    names = run.env.spec.agents
    mean = result.credit.mean(0).tolist()
    return {
        "method": "switch-off",
        "reference": result.reference,
        "estimand": result.estimand,
        "unit": result.unit,
        "env_steps": run.env_steps,
        "agents": {
            name: {"value": value, "interval": interval} for name, value, interval in zip(names, mean, _intervals(result), strict=True)
        },
        "estimator": f"switch-off matrix by simulation, {result.coalitions_used}",
        "total": float(result.total.mean()),
        "episodes": len(result.length),
        "rollouts": result.rollouts,
        "every": result.every,
        "gamma": result.gamma,
        "env_steps_played": result.env_steps,
        "resampled": result.resampled,
        "approximate": True,
        "coalitions": [[name for name, inside in zip(names, row, strict=True) if inside] for row in result.coalitions.tolist()],
        "matrices": [_episode_document(names, result, episode) for episode in range(len(result.length))],
    }


def _intervals(result: "SwitchOff") -> list[tuple[float, float] | None]:
    """A 95% t interval of each agent's mean credit, over episodes; None for a single episode."""
    from ..credit.intervals import t_interval

    if len(result.credit) < 2:
        return [None] * result.credit.shape[1]
    low, high = t_interval(result.credit.T)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _episode_document(names: tuple[str, ...], result: "SwitchOff", episode: int) -> dict[str, Any]:
    blocks = slice(result.blocks(episode))
    credit, error = result.credit[episode].tolist(), result.credit_error[episode].tolist()
    return {
        "seed": int(result.seeds[episode]),
        "env_steps": int(result.length[episode]),
        "truncated": bool(result.truncated[episode]),
        "steps": result.moments[blocks].tolist(),
        "rewards": result.rewards[episode, blocks].tolist(),
        "matrix": result.matrix[episode, blocks].tolist(),
        "error": result.error[episode, blocks].tolist(),
        "values": result.values[:, episode, blocks].tolist(),
        "value_error": result.value_error[:, episode, blocks].tolist(),
        "agents": {name: {"value": value, "error": off} for name, value, off in zip(names, credit, error, strict=True)},
        "total": {"value": float(result.total[episode]), "error": float(result.total_error[episode])},
    }


def switch_off_text(document: Mapping[str, Any]) -> str:
    """A table per episode: a row per kept step, a column per agent, their sums below; then what the figures say."""
    parts = [_episode_text(document, number_of, item) for number_of, item in enumerate(document["matrices"])]
    mean = ", ".join(f"{name} {number(entry['value'])}" for name, entry in document["agents"].items())
    several = len(parts) > 1
    return "\n".join(
        [
            f"switch-off ({document['reference']}): which agent earned how much at which step",
            *parts,
            *([f"mean of the {len(parts)} episodes: {mean}; together {number(document['total'])}."] if several else []),
            f"switch-off ({document['reference']}): {document['estimand']}; in {document['unit']}, {document['estimator']}. "
            f"+- is one standard error ({document['resampled']}).",
        ]
    )


def _episode_text(document: Mapping[str, Any], which: int, item: Mapping[str, Any]) -> str:
    names, every = list(item["agents"]), document["every"]
    matrix, error, steps = _without_dust(item["matrix"]), item["error"], item["steps"]
    size = [max(abs(value) for value in row) for row in matrix]
    order = sorted(range(len(matrix)), key=lambda row: -size[row])
    shown, hidden = sorted(order[:ROWS_SHOWN]), order[ROWS_SHOWN:]

    def label(row: int) -> str:
        last = min(steps[row] + every, item["env_steps"]) - 1
        return str(steps[row]) if last == steps[row] else f"{steps[row]}-{last}"

    rows = [(label(row), number(item["rewards"][row]), *map(_with_error, matrix[row], error[row])) for row in shown]
    agents = item["agents"].values()
    rows.append(
        ("sum", number(sum(item["rewards"])) if document["gamma"] == 1 else "", *(_with_error(a["value"], a["error"]) for a in agents))
    )
    ending = "truncated" if item["truncated"] else "terminated"
    everybody, nobody = item["values"][-1][0], item["values"][0 if len(item["values"]) > 2 else -2][0]
    lines = [
        f"episode {which} (seed {item['seed']}): {item['env_steps']} env steps, {ending}",
        table(("step", "reward", *names), rows),
    ]
    if hidden:
        lines.append(f"{len(hidden)} of {len(matrix)} rows not shown: none of their entries is beyond +-{number(size[hidden[0]])}.")
    together = _with_error(item["total"]["value"], item["total"]["error"])
    lines.append(
        f"together {together}: from the first step on the team expects {number(everybody)}, "
        f"everybody following {document['reference']} {number(nobody)}."
    )
    return "\n".join(lines)


def _without_dust(matrix: list[list[float]]) -> list[list[float]]:
    """Sums of numbers that cancel leave rests of rounding: 0 for people."""
    least = 1e-7 * max((abs(value) for row in matrix for value in row), default=0.0)
    return [[value if abs(value) > least else 0.0 for value in row] for row in matrix]


def _with_error(value: float, error: float) -> str:
    return "0" if value == error == 0 else f"{number(value)} +- {number(error)}"
