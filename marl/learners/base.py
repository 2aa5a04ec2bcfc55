"""What the trainer asks of a learner: networks, targets and losses without side effects.

`Loss.total` is a *sum* over real entries and `Loss.weight` their number; the trainer divides. So gradients of
minibatches add up to the full batch's, and ranks or stacked seeds need no second version.

A learner's networks fall into *parts* that are moved by optimisers of their own: the agents (with their mixer), and a
critic where there is one. No part's loss sends a gradient into another part.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..data import Minibatch, Rollout
from ..exploration import Explore

AGENTS, CRITIC = "agents", "critic"
"""Names of the parts."""


@dataclass(frozen=True)
class Context:
    """What a loss depends on besides networks and data."""

    scale: float | Tensor = 1.0
    """Rewards are divided by it."""
    epsilon: float = 0.0
    """Exploration of the policy as it stands."""
    generator: torch.Generator | None = None
    """For actions drawn afresh from the current policies."""


@dataclass(frozen=True)
class Loss:
    """One minibatch's loss of one part."""

    total: Float[Tensor, ""]
    """Sum over real entries."""
    weight: Float[Tensor, ""]
    """Number of real entries."""
    td_error: Tensor
    """(time, env, value): target minus value; 0 where the entry is not real."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Sums over real entries, by name; divided by `weight` where shown."""
    reward_power: int = 2
    """How `total` grows with the unit of reward: 2 for a squared error, 1 for an advantage times a log-probability."""


@runtime_checkable
class Learner(Protocol):
    """One algorithm family."""

    parts: dict[str, tuple[str, ...]]
    """Part -> the networks its optimiser moves."""
    explore: Explore
    """How actions are chosen while collecting."""

    def make_networks(self, seed: int) -> nn.ModuleDict:
        """Fresh networks; the same seed gives the same weights."""
        ...

    def plan(self, networks: nn.ModuleDict, targets: nn.ModuleDict, batch: Rollout, context: Context) -> dict[str, Tensor]:
        """Part -> targets of a whole fresh batch, (time, env, value), for the parts whose returns should see all of it."""
        ...

    def losses(
        self, networks: nn.ModuleDict, targets: nn.ModuleDict, minibatch: Minibatch, *, planned: Mapping[str, Tensor], context: Context
    ) -> dict[str, Loss]:
        """Part -> its loss on one minibatch; `planned` holds these steps' share of what `plan` gave."""
        ...

    def report(self, line: dict[str, Any]) -> dict[str, Any]:
        """A line of metrics with what can be said only of averages; raises UserError where they say that training is in vain."""
        ...
