"""A delayed-reward version of any task: the whole episode's team reward is paid with its last step.

    paid_t = 0 before the end,   paid_T = r_0 + ... + r_T

Nothing else changes: views, actions, ends, random numbers, returns. What is owed is part of the state but of no view, so the
reward no longer follows from what is seen: that is what makes delayed rewards hard. The agents' own rewards are paid the same way.
"""

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .base import Saved, Step, TeamEnv, TeamSpec, View
from .native import NativeEnv, Outcome
from .randomness import Clock

Task = TypeVar("Task")


@dataclass(frozen=True)
class Owed:
    """What the running episode has earned so far and was not paid, in float64."""

    team: Float[Tensor, " env"]
    agents: Float[Tensor, "env agent"]
    """Zeros where the task has no rewards of the agents' own."""


def nothing_owed(count: int, num_agents: int, device: torch.device | None = None) -> Owed:
    """At an episode's start."""
    zeros = torch.zeros(count, num_agents, dtype=torch.float64, device=device)
    return Owed(zeros[:, 0].clone(), zeros)


def settle(
    owed: Owed, reward: Float[Tensor, " env"], agent_reward: Float[Tensor, "env agent"] | None, done: Bool[Tensor, " env"]
) -> tuple[Owed, Float[Tensor, " env"], Float[Tensor, "env agent"] | None]:
    """What is owed after a step, and what it pays: all of it where the episode is `done`, else nothing."""
    team, agents = owed.team + reward, owed.agents
    paid = torch.where(done, team, 0.0).to(reward.dtype)
    if agent_reward is None:
        return Owed(team, agents), paid, None
    agents = agents + agent_reward
    return Owed(team, agents), paid, torch.where(done.unsqueeze(-1), agents, 0.0).to(agent_reward.dtype)


@dataclass(frozen=True)
class DelayedTask(Generic[Task]):
    """One moment of a native task, with what is owed."""

    inner: Task
    owed: Owed


class DelayedNative(NativeEnv[DelayedTask[Task]]):
    """A native task that pays at the end."""

    def __init__(self, inner: NativeEnv[Task]):
        self.inner, self.spec = inner, _spec(inner)
        self.scripted: dict[str, Any] = getattr(inner, "scripted", {})

    def begin(self, clock: Clock) -> DelayedTask[Task]:
        return DelayedTask(self.inner.begin(clock), nothing_owed(len(clock.seed), self.spec.num_agents, clock.seed.device))

    def advance(self, task: DelayedTask[Task], action: Int[Tensor, "env agent"], clock: Clock) -> tuple[DelayedTask[Task], Outcome]:
        inner, outcome = self.inner.advance(task.inner, action, clock)
        done = outcome.terminated | outcome.truncated
        owed, paid, agents = settle(task.owed, outcome.reward, outcome.agent_reward, done)
        return DelayedTask(inner, owed), Outcome(paid, agents, outcome.terminated, outcome.truncated)

    def observe(self, task: DelayedTask[Task]) -> View:
        return self.inner.observe(task.inner)


@dataclass(frozen=True)
class DelayedState:
    """The state of a task stepped in Python, with what each copy is owed and which copies have ended."""

    inner: Any
    owed: Owed
    ended: Bool[Tensor, " env"]
    """Only without automatic reset: those copies were paid."""


class DelayedTeam:
    """Any other `TeamEnv` that pays at the end."""

    def __init__(self, inner: TeamEnv):
        self.inner, self.spec = inner, _spec(inner)
        self.scripted: dict[str, Any] = getattr(inner, "scripted", {})

    def reset(self, seeds: Int[Tensor, " env"]) -> tuple[DelayedState, View]:
        inner, view = self.inner.reset(seeds)
        ended = torch.zeros(len(seeds), dtype=torch.bool)
        return DelayedState(inner, nothing_owed(len(seeds), self.spec.num_agents), ended), view

    def step(self, state: DelayedState, action: Int[Tensor, "env agent"], *, autoreset: bool = True) -> tuple[DelayedState, Step, View]:
        inner, step, view = self.inner.step(state.inner, action, autoreset=autoreset)
        done = step.terminated | step.truncated
        owed, paid, agents = settle(state.owed, step.reward, step.agent_reward, done & ~state.ended)
        over = done if autoreset else torch.zeros_like(done)
        owed = Owed(owed.team.masked_fill(over, 0.0), owed.agents.masked_fill(over.unsqueeze(-1), 0.0))
        ended = torch.zeros_like(done) if autoreset else done
        return DelayedState(inner, owed, ended), replace(step, reward=paid, agent_reward=agents), view

    def select(self, state: DelayedState, rows: Int[Tensor, " new"]) -> DelayedState:
        owed = Owed(state.owed.team[rows], state.owed.agents[rows])
        return DelayedState(self.inner.select(state.inner, rows), owed, state.ended[rows])

    def dump(self, state: DelayedState) -> Saved:
        saved = self.inner.dump(state.inner)
        own = {"owed.team": state.owed.team, "owed.agents": state.owed.agents, "owed.ended": state.ended}
        return Saved({**{f"inner.{name}": value for name, value in saved.tensors.items()}, **own}, saved.meta)

    def load(self, saved: Saved) -> DelayedState:
        inner = {name.removeprefix("inner."): value for name, value in saved.tensors.items() if name.startswith("inner.")}
        owed = Owed(saved.tensors["owed.team"], saved.tensors["owed.agents"])
        return DelayedState(self.inner.load(Saved(inner, saved.meta)), owed, saved.tensors["owed.ended"])

    def close(self) -> None:
        self.inner.close()


def delay_reward(env: TeamEnv) -> TeamEnv:
    """The same task, paid at the end of each episode."""
    return DelayedNative(env) if isinstance(env, NativeEnv) else DelayedTeam(env)


def _spec(inner: TeamEnv) -> TeamSpec:
    return replace(inner.spec, name=f"{inner.spec.name} (reward delayed)")
