"""Any coalition game as a one-step task: each agent joins or stays out, the team is paid v of those who joined, and the episode ends.

    reward = v(C),   C = {i : u_i = 1}

Action 1 is "join"; action 0 is the reference, what an absent agent does, and so every agent's no-op. Every agent sees the
constant 1. The credit of such a task is known wherever that of its game is, so whatever reads credit from an environment or
from what was learned in it can be tested here.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import TeamSpec, View
from .matrix import MatrixTask
from .native import NativeEnv, Outcome
from .randomness import Clock

LARGEST_TABLE = 12
"""Agents up to which all 2^n values are computed once; above, a callable is asked at every step."""
REFERENCE, JOIN = 0, 1
Value = Callable[[Tensor], Tensor]
"""v: bool coalitions (m, n) -> (m,)."""


class CoalitionTask(NativeEnv[MatrixTask]):
    """B copies of a one-step coalition game.

    Args:
        value: v as a callable on bool coalitions (m, n), or as a table of 2^n numbers whose entry m is v of the agents whose
            bits are set in m (entry 0: nobody, the last: everybody).
        num_agents: n; may be left out with a table.
        name: of the task, for people.
        agents: their names; default agent_0, agent_1, ...
    """

    def __init__(
        self,
        value: "Value | Sequence[float] | Tensor",
        num_agents: int | None = None,
        *,
        name: str = "coalition",
        agents: Sequence[str] = (),
    ):
        if callable(value) and not isinstance(value, Tensor):
            if num_agents is None or num_agents < 1:
                raise ValueError(
                    f"num_agents is {num_agents}: a game given as a function needs to be told its number of agents, at least 1"
                )
            self._value = value
            table = _values(value, num_agents) if num_agents <= LARGEST_TABLE else None
        else:
            table = torch.as_tensor(value, dtype=torch.float64)
            num_agents = _agents_of(table, num_agents)
        if table is not None and not bool(table.isfinite().all()):
            raise ValueError("the game has NaN or infinity among its values; every coalition needs a finite one")
        names = tuple(agents) or tuple(f"agent_{i}" for i in range(num_agents))
        if len(names) != num_agents:
            raise ValueError(f"{len(names)} names for {num_agents} agents: give each agent one")
        self.table: Float[Tensor, " coalition"] | None = None if table is None else table.to(torch.float32)
        self.payoff = _payoff(self.table, num_agents)
        self.spec = TeamSpec(
            name=name,
            agents=names,
            num_actions=2,
            obs_dim=1,
            state_dim=1,
            episode_limit=1,
            action_names=(("stay out", "join"),) * num_agents,
            obs_names=(("one",),) * num_agents,
            noop=(REFERENCE,) * num_agents,
            return_range=None if self.table is None else (float(self.table.min()), float(self.table.max())),
            team_reward="shared",
        )

    def begin(self, clock: Clock) -> MatrixTask:
        return MatrixTask(torch.ones(len(clock.seed), 1, device=clock.seed.device))

    def advance(self, task: MatrixTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[MatrixTask, Outcome]:
        ended = torch.ones_like(clock.seed, dtype=torch.bool)
        return task, Outcome(reward=self._reward(action), agent_reward=None, terminated=ended, truncated=~ended)

    def _reward(self, action: Int[Tensor, "env agent"]) -> Float[Tensor, " env"]:
        if self.table is None:
            return self._value(action == JOIN).to(torch.float32)
        bits = torch.arange(self.spec.num_agents, device=action.device)
        return self.table.to(action.device)[((action == JOIN).to(torch.int64) << bits).sum(1)]

    def observe(self, task: MatrixTask) -> View:
        batch, n, device = len(task.seen), self.spec.num_agents, task.seen.device
        return View(
            obs=task.seen.unsqueeze(1).expand(-1, n, -1),
            state=task.seen,
            available=torch.ones(batch, n, 2, dtype=torch.bool, device=device),
            alive=torch.ones(batch, n, dtype=torch.bool, device=device),
        )


def _values(value: Value, num_agents: int) -> Float[Tensor, " coalition"]:
    """v of all 2^n coalitions, row m being that of the agents whose bits are set in m."""
    coalitions = (torch.arange(2**num_agents).unsqueeze(1) >> torch.arange(num_agents)) & 1 == 1
    values = torch.as_tensor(value(coalitions))
    if tuple(values.shape) != (2**num_agents,):
        raise ValueError(
            f"the game returned shape {tuple(values.shape)} for {2**num_agents} coalitions of {num_agents} agents; expected one value each"
        )
    return values.to(torch.float64)


def _agents_of(table: Tensor, num_agents: int | None) -> int:
    """How many agents a table of 2^n values is of."""
    n = table.numel().bit_length() - 1
    if table.dim() != 1 or table.numel() != 2**n or not 1 <= n <= LARGEST_TABLE:
        raise ValueError(f"a table of shape {tuple(table.shape)} is no coalition game: give 2^n values, n = 1 to {LARGEST_TABLE} agents")
    if num_agents not in (None, n):
        raise ValueError(f"a table of {table.numel()} values is a game of {n} agents, not of {num_agents}")
    return n


def _payoff(table: Tensor | None, num_agents: int) -> Tensor | None:
    """The same game as a matrix game's payoff, one axis per agent; None where it is not known or has but one axis."""
    if table is None or num_agents < 2:
        return None
    return table.view((2,) * num_agents).permute(*range(num_agents - 1, -1, -1))
