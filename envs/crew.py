"""Live ParallelEnvs that do as they are told, each in a slot: start an episode, play joint actions, write what is seen.

Which copy of a task uses which slot, and what was played in it, is the business of `PettingZooTeam`; a crew only moves
environments. So they may as well live in other processes (vector.py), and nothing is lost with them but their present
moment, which a replay brings back.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from .fork import copy_env
from .fork_check import CopyCheck, check_copy
from .layout import Layout
from .live import Rows, Slot, begin
from .plain import Reading, Usual


class Job(NamedTuple):
    """What one slot's environment has to do."""

    slot: int
    seed: int | None
    """Start an episode with this seed first; None: go on from where it stands."""
    joints: list[list[int]]
    """Joint actions to play, one after another; playing stops where the episode ends."""


@dataclass(eq=False)
class Ticket:
    """A job that was given to a crew alone, to be waited for."""

    job: Job
    rows: Rows
    index: int
    """Row in which it is seen what the job leaves."""
    told: Callable[[], str]
    """What the job is about, in words."""
    number: int = 0
    """The crew's own."""


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

    def submit(self, job: Job, rows: Rows, index: int, *, told: Callable[[], str]) -> Ticket:
        """Have one job done; row `index` holds zeros now, and what it leaves once `wait` has named the ticket."""
        ...

    def wait(self, tickets: Sequence[Ticket], minimum: int) -> list[Ticket]:
        """Those that are done, once they are at least `minimum`. What an environment raised is raised here."""
        ...

    def drop(self, tickets: Iterable[Ticket]) -> None:
        """Nobody waits for these any more."""
        ...

    def close(self) -> None:
        """Close every environment. Slots stay with those who hold them, and are empty."""
        ...


class LocalCrew:
    """Environments in this process, moved one after another."""

    def __init__(self, maker: Callable[[], Any], layout: Layout, *, reuse: bool, first: Any):
        """`first`: an environment made already. Without `reuse` every episode gets a new one."""
        self.maker, self.reuse = maker, reuse
        self.places: dict[int, Slot] = {0: Slot(first)}
        self.job = np.zeros(1, dtype=np.int64)
        """Position of the job that is being done, or judged, in the last `run`."""
        self._free = [0]
        self._slots = 1
        self.follow(layout)

    def follow(self, layout: Layout) -> None:
        """Read the environments in this way from now on."""
        self.layout, self._usual = layout, Usual(layout)

    def take(self, copies: Iterable[int]) -> list[int]:
        return [self._free.pop() if self._free else self._new_slot() for _ in copies]

    def pool(self, slot: int) -> list[int]:
        return self._free

    def holds(self, slot: int) -> bool:
        return slot in self.places

    def run(self, jobs: Sequence[Job], rows: Rows, where: Sequence[int], *, told: Callable[[int], str]) -> None:
        with Reading(self._usual, rows, self.job) as reading:
            for number, (job, index) in enumerate(zip(jobs, where, strict=True)):
                self.job[0] = number
                if job.seed is None and len(job.joints) == 1 and not self.places[job.slot].over:
                    reading.advance(self.places[job.slot], job.joints[0], index)
                else:
                    self._play(job, rows, index)

    def submit(self, job: Job, rows: Rows, index: int, *, told: Callable[[], str]) -> Ticket:
        return Ticket(job, rows, index, told)

    def wait(self, tickets: Sequence[Ticket], minimum: int) -> list[Ticket]:
        done = list(tickets[:minimum])
        for ticket in done:
            self.run([ticket.job], ticket.rows, [ticket.index], told=lambda _: "")
        return done

    def drop(self, tickets: Iterable[Ticket]) -> None:
        """They were never begun."""

    def try_copies(self, slot: int) -> CopyCheck:
        """Whether these environments can be copied exactly, found out with the one in this slot, which is left anywhere."""
        place = self.places[slot] = self._ready_for_an_episode(slot)
        return check_copy(place.env)

    def copy(self, source: int, target: int) -> None:
        """Put a copy of the environment in one slot, where it stands, into another; CannotCopy where a part has no copy."""
        place = self.places[source]
        self.places[target] = replace(place, env=copy_env(place.env))

    def _play(self, job: Job, rows: Rows, index: int) -> None:
        """An episode's start, and joint actions one after another; row `index` is zeros before it."""
        if job.seed is not None:
            slot = self.places[job.slot] = self._ready_for_an_episode(job.slot)
            seen, at = (Rows(self.layout, 1), 0) if job.joints else (rows, index)
            begin(slot.env, self.layout, job.seed, seen, at)
            slot.stand(seen, at)
        slot = self.places[job.slot]
        for played, joint in enumerate(job.joints, start=1):
            if slot.over:  # a replay that ends early; the caller sees it by the number of steps
                break
            seen, at = (rows, index) if played == len(job.joints) else (Rows(self.layout, 1), 0)
            with Reading(self._usual, seen, self.job) as reading:
                reading.advance(slot, joint, at)
        rows.step[index] = slot.step

    def close(self) -> None:
        places, self.places = self.places, {}
        for place in places.values():
            place.env.close()

    def _new_slot(self) -> int:
        self._slots += 1
        return self._slots - 1

    def _ready_for_an_episode(self, number: int) -> Slot:
        used = self.places.get(number)
        return Slot(used.env if used is not None and self.reuse else self.maker())
