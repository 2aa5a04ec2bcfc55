"""Live ParallelEnvs that do as they are told, each in a slot: start an episode, play joint actions, write what is seen.

Which copy of a task uses which slot, and what was played in it, is the business of `PettingZooTeam`; a crew only moves
environments. So they may as well live in other processes (vector.py), and nothing is lost with them but their present
moment, which a replay brings back.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from .layout import Layout
from .live import Rows, advance, begin


class Job(NamedTuple):
    """What one slot's environment has to do."""

    slot: int
    seed: int | None
    """Start an episode with this seed first; None: go on from where it stands."""
    joints: list[list[int]]
    """Joint actions to play, one after another; playing stops where the episode ends."""


@runtime_checkable
class Crew(Protocol):
    """Environments in slots."""

    def take(self, copies: Iterable[int]) -> list[int]:
        """One free slot for each copy; it is the caller's until it is put back into `pool(slot)`."""
        ...

    def pool(self, slot: int) -> list[int]:
        """Where `slot` goes when it is free again."""
        ...

    def holds(self, slot: int) -> bool:
        """Whether there is an environment in this slot, where its last job left it."""
        ...

    def run(self, jobs: Sequence[Job], rows: Rows, where: Sequence[int], *, told: Callable[[int], str]) -> None:
        """Do all jobs (of different slots); what job k leaves is seen in row `where[k]`, with the env steps of its episode so far.

        What an environment raises is raised here; of several, the one of the first job. `told(k)` says in words what job k is about.
        """
        ...

    def close(self) -> None:
        """Close every environment. Slots stay with those who hold them, and are empty."""
        ...


@dataclass(slots=True)
class Place:
    """An environment and what the next step needs to know of the last one."""

    env: Any
    alive: np.ndarray
    state: np.ndarray
    step: int = 0
    over: bool = False


class LocalCrew:
    """Environments in this process, moved one after another."""

    def __init__(self, maker: Callable[[], Any], layout: Layout, *, reuse: bool, first: Any):
        """`first`: an environment made already. Without `reuse` every episode gets a new one."""
        self.maker, self.layout, self.reuse = maker, layout, reuse
        self.places: dict[int, Place] = {0: _place(first)}
        self._free = [0]
        self._slots = 1

    def take(self, copies: Iterable[int]) -> list[int]:
        return [self._free.pop() if self._free else self._new_slot() for _ in copies]

    def pool(self, slot: int) -> list[int]:
        return self._free

    def holds(self, slot: int) -> bool:
        return slot in self.places

    def run(self, jobs: Sequence[Job], rows: Rows, where: Sequence[int], *, told: Callable[[int], str]) -> None:
        for job, index in zip(jobs, where, strict=True):
            self.do(job, rows, index)

    def do(self, job: Job, rows: Rows, index: int) -> None:
        """One job; row `index` is zeros before it."""
        if job.seed is not None:
            place = self.places[job.slot] = self._place_for(job.slot)
            seen, at = (Rows(self.layout, 1), 0) if job.joints else (rows, index)
            begin(place.env, self.layout, job.seed, seen, at)
            place.alive, place.state = seen.alive[at], seen.state[at]
        place = self.places[job.slot]
        for played, joint in enumerate(job.joints, start=1):
            if place.over:  # a replay that ends early; the caller sees it by the number of steps
                break
            seen, at = (rows, index) if played == len(job.joints) else (Rows(self.layout, 1), 0)
            place.step += 1
            advance(place.env, self.layout, joint, seen, at, alive=place.alive, state=place.state, step=place.step)
            place.alive, place.state = seen.alive[at], seen.state[at]
            place.over = bool(seen.terminated[at] or seen.truncated[at])
        rows.step[index] = place.step

    def close(self) -> None:
        places, self.places = self.places, {}
        for place in places.values():
            place.env.close()

    def _new_slot(self) -> int:
        self._slots += 1
        return self._slots - 1

    def _place_for(self, slot: int) -> Place:
        """The slot's environment, ready for a new episode."""
        used = self.places.get(slot)
        return _place(used.env if used is not None and self.reuse else self.maker())


def _place(env: Any) -> Place:
    return Place(env, alive=np.zeros(0, dtype=np.bool_), state=np.zeros(0, dtype=np.float32))
