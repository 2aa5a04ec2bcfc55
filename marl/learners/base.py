"""What the trainer asks of a learner: networks, targets and a loss without side effects.

`Loss.total` is a *sum* over real entries and `Loss.weight` their number; the trainer divides. So gradients of
minibatches add up to the full batch's, and ranks or stacked seeds need no second version.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from ..data import Minibatch, Rollout


@dataclass(frozen=True)
class Loss:
    """One minibatch's loss."""

    total: Float[Tensor, ""]
    """Sum over real entries."""
    weight: Float[Tensor, ""]
    """Number of real entries."""
    td_error: Tensor
    """(time, env, value): target minus value; 0 where the entry is not real."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Sums over real entries, by name; divided by `weight` where shown."""


@runtime_checkable
class Learner(Protocol):
    """One algorithm family."""

    def make_networks(self, seed: int) -> nn.ModuleDict:
        """Fresh networks; the same seed gives the same weights."""
        ...

    def prepare(self, networks: nn.ModuleDict, targets: nn.ModuleDict, batch: Rollout, scale: float) -> Tensor | None:
        """Targets of a whole fresh batch, (time, env, value), when returns should see all of it; else None."""
        ...

    def loss(self, networks: nn.ModuleDict, targets: nn.ModuleDict, minibatch: Minibatch, *, target: Tensor | None, scale: float) -> Loss:
        """The loss of one minibatch; `target` as prepared for these steps, or None; rewards are divided by `scale`."""
        ...
