"""What `marl credit --method temporal` shows: the steps that earned the return by a model of it, how good that model is, steps x agents."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .cli_output import number, table

if TYPE_CHECKING:
    from .run import Run
    from .temporal_reading import TemporalCredit

_ROWS = 40
"""Steps shown to people; of longer episodes those with the largest rewards."""


def temporal_document(run: "Run", credit: "TemporalCredit") -> dict[str, Any]:
    """One reading as JSON values."""
    names, lengths = run.env.spec.agents, credit.valid.sum(0).tolist()
    reached = credit.valid.sum(1).tolist()
    steps = zip(credit.by_step().tolist(), credit.by_step_and_agent().tolist(), reached, strict=True)
    return {
        "method": "temporal",
        "model": credit.model,
        "fitted": credit.fitted,
        "estimand": "each step's part of the episode's undiscounted team return, by a model; the steps of an episode add up to its return",
        "unit": "team return",
        "env_steps": run.env_steps,
        "env_steps_played": credit.env_steps,
        "explained_variance": credit.explained_variance,
        "residual_share": credit.residual_share,
        "exploration": credit.epsilon,
        "agents": {"meaning": "the model's own claim about one replaced action, not the truth", "reference": credit.reference},
        "steps": [
            {"step": step, "reward": reward, "agents": dict(zip(names, of_agents, strict=True)), "episodes": episodes}
            for step, (reward, of_agents, episodes) in enumerate(steps)
        ],
        "episodes": [
            {"return": total, "residual": residual, "rewards": rewards[:length]}
            for total, residual, rewards, length in zip(
                credit.returns.tolist(), credit.residual.tolist(), credit.rewards.T.tolist(), lengths, strict=True
            )
        ],
    }


def temporal_text(item: Mapping[str, Any]) -> str:
    """The same for people."""
    steps, episodes = item["steps"], item["episodes"]
    shown = sorted(sorted(steps, key=lambda entry: -abs(entry["reward"]))[:_ROWS], key=lambda entry: entry["step"])
    names = list(steps[0]["agents"])
    rows = [(str(entry["step"]), number(entry["reward"]), *(number(entry["agents"][name]) for name in names)) for entry in shown]
    whose = "fitted to fresh exploring episodes of the team" if item["fitted"] else "the run's own, from its training"
    mean = sum(entry["return"] for entry in episodes) / len(episodes)
    left = "" if len(shown) == len(steps) else f" The {len(shown)} of {len(steps)} steps with the largest rewards."
    return "\n".join(
        [
            f"temporal credit ({item['model']}, {whose}): which steps earned the return, mean of {len(episodes)} episodes.{left}",
            table(("step", "reward", *names), rows),
            f"The rewards of an episode add up to its return (mean {number(mean)}) exactly: what the model missed was spread evenly over "
            f"the steps, {_share(item['residual_share'])} of how far these returns lie apart.",
            f"The model explains {_share(item['explained_variance'])} of the variance of returns of fresh episodes with exploration "
            f"{number(item['exploration'])}.",
            f"Under the agents: the reward of the step less the model's for the same step with that agent's action replaced by "
            f"{item['agents']['reference']}. It is {item['agents']['meaning']}.",
        ]
    )


def _share(value: float | None) -> str:
    return "an undefined part (all returns are alike)" if value is None or math.isnan(value) else f"{value:.0%}"
