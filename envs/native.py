"""What every native batched task shares: reset, automatic reset, freezing, forking and saving of a state of tensors.

A native task writes four pure functions (`begin`, `advance`, `observe`, plus its `spec`); this file makes a `TeamEnv`
out of them. All randomness comes from the copy's `Clock`.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .base import Saved, Step, TeamSpec, View
from .randomness import Clock
from .tracing import in_one_graph

Task = TypeVar("Task")


def map_tensors(fn: Callable[..., Tensor], first: Any, *rest: Any) -> Any:
    """Apply `fn` to the matching tensors of equally shaped (nested) frozen dataclasses."""
    values = {}
    for item in dataclasses.fields(first):
        parts = [getattr(tree, item.name) for tree in (first, *rest)]
        values[item.name] = map_tensors(fn, *parts) if dataclasses.is_dataclass(parts[0]) else fn(*parts)
    return type(first)(**values)


def name_tensors(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a (nested) dataclass under dotted names."""
    named = {}
    for item in dataclasses.fields(tree):
        value = getattr(tree, item.name)
        named.update(name_tensors(value, f"{prefix}{item.name}.") if dataclasses.is_dataclass(value) else {prefix + item.name: value})
    return named


@dataclass(frozen=True)
class Outcome:
    """What `advance` reports of one joint action, per copy."""

    reward: Float[Tensor, " env"]
    agent_reward: Float[Tensor, "env agent"] | None
    terminated: Bool[Tensor, " env"]
    truncated: Bool[Tensor, " env"]


@dataclass(frozen=True)
class NativeState(Generic[Task]):
    """The task's own tensors, the clock, and how the last step ended (all False in a running episode)."""

    task: Task
    clock: Clock
    terminated: Bool[Tensor, " env"]
    truncated: Bool[Tensor, " env"]


class NativeEnv(ABC, Generic[Task]):
    """A `TeamEnv` from pure functions of tensors."""

    spec: TeamSpec

    @abstractmethod
    def begin(self, clock: Clock) -> Task:
        """The first moment of an episode, one per row of the clock; draws from `clock.key(RESET)` only."""

    @abstractmethod
    def advance(self, task: Task, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[Task, Outcome]:
        """One joint action; `clock` stands *before* it. Draws from `clock.key(TASK)` only."""

    @abstractmethod
    def observe(self, task: Task) -> View:
        """The view of a moment."""

    def reset(self, seeds: Int[Tensor, " env"]) -> tuple[NativeState[Task], View]:
        clock = Clock.start(seeds)
        running = torch.zeros(len(seeds), dtype=torch.bool, device=seeds.device)
        task = self.begin(clock)
        return NativeState(task=task, clock=clock, terminated=running, truncated=running), self.observe(task)

    def step(
        self, state: NativeState[Task], action: Int[Tensor, "env agent"], *, autoreset: bool = True
    ) -> tuple[NativeState[Task], Step, View]:
        if autoreset and in_one_graph():
            return self._step_in_one_graph(state, action)
        task, outcome = self.advance(state.task, action, state.clock)
        clock = state.clock.tick()
        ended = state.terminated | state.truncated
        if ended.any():  # only without automatic reset: those copies stay as they ended
            task = map_tensors(lambda old, new: torch.where(ended.view(-1, *[1] * (new.dim() - 1)), old, new), state.task, task)
            clock = map_tensors(lambda old, new: torch.where(ended, old, new), state.clock, clock)
            outcome = Outcome(
                reward=outcome.reward.masked_fill(ended, 0.0),
                agent_reward=None if outcome.agent_reward is None else outcome.agent_reward.masked_fill(ended.unsqueeze(-1), 0.0),
                terminated=torch.where(ended, state.terminated, outcome.terminated),
                truncated=torch.where(ended, state.truncated, outcome.truncated),
            )
        after = self.observe(task)
        step = Step(outcome.reward, outcome.agent_reward, outcome.terminated, outcome.truncated, after)
        done = outcome.terminated | outcome.truncated
        if not autoreset or not done.any():
            return NativeState(task, clock, outcome.terminated, outcome.truncated), step, after
        running = torch.zeros_like(done)
        clock = state.clock.tick(done)
        rows = done.nonzero().squeeze(-1)
        if len(rows) == len(done):
            task = self.begin(clock)
            return NativeState(task, clock, running, running), step, self.observe(task)
        fresh = self.begin(map_tensors(lambda value: value[rows], clock))
        task = map_tensors(lambda old, new: old.index_copy(0, rows, new), task, fresh)
        seen = self.observe(fresh)
        view = map_tensors(lambda old, new: old.index_copy(0, rows, new), after, seen)
        return NativeState(task, clock, running, running), step, view

    def _step_in_one_graph(self, state: NativeState[Task], action: Int[Tensor, "env agent"]) -> tuple[NativeState[Task], Step, View]:
        """`step` with automatic reset, no branch on what tensors hold: every copy's next episode is begun, and taken where due."""
        task, outcome = self.advance(state.task, action, state.clock)
        after = self.observe(task)
        done = outcome.terminated | outcome.truncated
        clock = state.clock.tick(done)
        task = map_tensors(lambda old, new: torch.where(done.view(-1, *[1] * (new.dim() - 1)), new, old), task, self.begin(clock))
        running = torch.zeros_like(done)
        step = Step(outcome.reward, outcome.agent_reward, outcome.terminated, outcome.truncated, after)
        return NativeState(task, clock, running, running), step, self.observe(task)

    def select(self, state: NativeState[Task], rows: Int[Tensor, " new"]) -> NativeState[Task]:
        return map_tensors(lambda value: value[rows], state)

    def dump(self, state: NativeState[Task]) -> Saved:
        return Saved(tensors=name_tensors(state))

    def load(self, saved: Saved) -> NativeState[Task]:
        example, _ = self.reset(torch.zeros(1, dtype=torch.int64))
        missing = name_tensors(example).keys() ^ saved.tensors.keys()
        if missing:
            raise ValueError(f"this saved state is not of {self.spec.name}: {sorted(missing)} differ")
        names = iter(name_tensors(example))
        return map_tensors(lambda _: saved.tensors[next(names)], example)

    def close(self) -> None:
        """Nothing is held."""
