"""What travels between collecting, storing and learning. Axis order everywhere: time, env, agent, action or feature.

`Rollout` is T consecutive env steps in B copies. A `Minibatch` has the same fields, its env axis being the sampled
windows and its first `burn_in` time steps serving only to rebuild the memory.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """Joint transitions; index t is the moment the action was taken, `next_*` what followed, before any reset."""

    obs: Tensor
    """(time, env, agent, obs)"""
    state: Float[Tensor, "time env state"]
    available: Bool[Tensor, "time env agent action"]
    alive: Bool[Tensor, "time env agent"]
    """Agents that acted and learn: False for dead agents and for planted members."""
    action: Int[Tensor, "time env agent"]
    behaviour: Float[Tensor, "time env agent"]
    """Probability with which each agent took its action (1 for planted members, who were not asked)."""
    reward: Float[Tensor, "time env"]
    agent_reward: Float[Tensor, "time env agent"]
    """Each agent's own reward: the task's, for the record (the team's where it has none), or under `--agent-reward` what it learns from."""
    terminated: Bool[Tensor, "time env"]
    truncated: Bool[Tensor, "time env"]
    episode_start: Bool[Tensor, "time env"]
    valid: Bool[Tensor, "time env"]
    """True where the step is real (False: padding, before the first stored step, after the last)."""
    policy_version: Int[Tensor, "time env"]
    """Iterations behind the policy that acted."""
    actor: Int[Tensor, "time env"]
    """Which actor collected the step (0 in serial training)."""
    next_obs: Tensor
    next_state: Float[Tensor, "time env state"]
    next_available: Bool[Tensor, "time env agent action"]
    next_alive: Bool[Tensor, "time env agent"]
    extras: dict[str, Tensor] = field(default_factory=dict)
    """What a learner declared, by name; stored untouched."""

    @property
    def num_steps(self) -> int:
        return self.reward.shape[0]


@dataclass(frozen=True)
class Minibatch:
    """Windows of consecutive steps for one iteration."""

    steps: Rollout
    burn_in: int = 0
    """Leading time steps that only rebuild the memory and enter no loss."""
    padded: bool = True
    """Whether steps that are not real may be among them; False where every step is known to be."""


def tensor_fields() -> tuple[str, ...]:
    """The names of Rollout's tensors, in order."""
    return tuple(item.name for item in fields(Rollout) if item.name != "extras")


def replace_extras(rollout: Rollout, **extras: Tensor) -> Rollout:
    """The same rollout with more extras."""
    values: dict[str, Any] = {name: getattr(rollout, name) for name in tensor_fields()}
    return Rollout(**values, extras={**rollout.extras, **extras})
