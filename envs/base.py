"""The contract of a cooperative task: B copies stepped together, all tensors on one device, time never hidden.

`reset` and `step` take and return explicit state. A `View` is what can be seen at one time step; a `Step` is what one
joint action brought, with the view reached *before* any automatic reset, so the last observation of an episode is
never lost and `terminated` never mixes with `truncated`.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TeamSpec:
    """What does not change while a task runs. Sizes are after padding to the largest agent."""

    name: str
    """Task id, for people."""
    agents: tuple[str, ...]
    """Agent names; their order is the order of every agent axis."""
    num_actions: int
    """Actions on the action axis; an agent with fewer has the rest masked in `View.available`."""
    obs_dim: int
    """Features of one (flattened, padded) observation."""
    state_dim: int
    """Features of the global state."""
    episode_limit: int | None = None
    """Env steps after which an episode is truncated at the latest, or None if unknown."""
    truncates_at_limit: bool = False
    """Episodes are truncated at `episode_limit` and never before it (a promise that lets learners look at fewer last views)."""
    obs_dtype: torch.dtype = torch.float32
    """uint8 observations are stored raw and scaled to [0, 1] at the network."""
    obs_shape: tuple[int, ...] | None = None
    """(height, width, channels) where every agent observes an image of that shape (flattened in this order), else None."""
    state_is_obs: bool = False
    """The state is exactly all observations side by side (8-bit ones divided by 255), so it need not be stored beside them."""
    action_names: tuple[tuple[str, ...], ...] = ()
    """Per agent, a label for each of its real actions; () when there are none."""
    obs_names: tuple[tuple[str, ...], ...] = ()
    """Per agent, a label for each of its real features; () when there are none."""
    noop: tuple[int | None, ...] | None = None
    """Per agent, the action that does nothing (None for an agent without one), or None if the task has none at all."""
    return_range: tuple[float, float] | None = None
    """(lowest, highest) possible undiscounted team return of one episode, or None if unknown."""
    team_reward: str = "shared"
    """How `Step.reward` was formed: shared, sum or mean of the agents' rewards."""

    @property
    def num_agents(self) -> int:
        return len(self.agents)


@dataclass(frozen=True)
class View:
    """What can be seen at one time step."""

    obs: Tensor
    """(env, agent, obs), `spec.obs_dtype`; zeros for agents that are not alive, and in the padding."""
    state: Float[Tensor, "env state"]
    available: Bool[Tensor, "env agent action"]
    """True where the agent may take the action; never all False (an agent that is not alive has action 0 alone)."""
    alive: Bool[Tensor, "env agent"]


@dataclass(frozen=True)
class Step:
    """What one joint action brought."""

    reward: Float[Tensor, " env"]
    """The team reward."""
    agent_reward: Float[Tensor, "env agent"] | None
    """Each agent's own reward, kept for the record; never learned from as such."""
    terminated: Bool[Tensor, " env"]
    """The task ended; the value after it is 0."""
    truncated: Bool[Tensor, " env"]
    """Cut by a limit; bootstrap from `after`. Never True together with `terminated`."""
    after: View
    """The view reached, before any automatic reset."""


@dataclass(frozen=True)
class Saved:
    """A state as a checkpoint keeps it."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    """JSON values only."""


@runtime_checkable
class TeamEnv(Protocol):
    """B copies of one cooperative task (see the module's text). `check_team_env` tests every sentence below."""

    spec: TeamSpec

    def reset(self, seeds: Int[Tensor, " env"]) -> tuple[Any, View]:
        """Fresh copies, one per seed. The same seed gives the same copy, whatever stands beside it."""
        ...

    def step(self, state: Any, action: Int[Tensor, "env agent"], *, autoreset: bool = True) -> tuple[Any, Step, View]:
        """One joint action per copy. Never writes into its input tensors.

        The View is the one to act on next: after a reset where a copy was done, else equal to `Step.after`. With
        `autoreset=False` a copy that is done stays as it ended: reward 0, the same flags and view at every later step.
        """
        ...

    def select(self, state: Any, rows: Int[Tensor, " new"]) -> Any:
        """The copies named by `rows` (repeats allowed: fork, tile, drop); the same future for the same actions."""
        ...

    def dump(self, state: Any) -> Saved:
        """The state as tensors and JSON."""
        ...

    def load(self, saved: Saved) -> Any:
        """The state back again; raises ValueError when it cannot be restored exactly."""
        ...

    def close(self) -> None:
        """Release what is held; may be called twice."""
        ...
