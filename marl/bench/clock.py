"""Timing by turns: every side does the same kind of work in alternation, and CPU seconds are counted, not wall time.

What else the machine does then falls on all sides alike, and a side cannot look fast by taking another core. A *side* is
called with the CPU seconds it may spend and reports the units of work it did and the CPU seconds they took; a side that
runs in a process of its own (child.py) counts its own seconds.
"""

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """Work done in one turn."""

    units: float
    seconds: float
    """CPU seconds of all threads of the side's processes."""

    @property
    def speed(self) -> float:
        """Units per CPU second."""
        return self.units / self.seconds


@dataclass(frozen=True)
class Pace:
    """How long is measured."""

    turns: int
    """Turns of each side that count."""
    seconds: float
    """CPU seconds of one turn of one side, at least."""
    seed: int = 0
    """Of everything random in what is measured."""


Side = Callable[[float], Turn]
"""CPU seconds to spend at least -> the turn. The first call may warm up; its turn is thrown away."""


def cpu_seconds() -> float:
    """CPU seconds of this process, all its threads, and those of its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def steady(work: Callable[[], float]) -> Side:
    """A side that repeats `work`, which does a little and returns its units."""

    def turn(seconds: float) -> Turn:
        began, units, spent = cpu_seconds(), 0.0, 0.0
        while spent < seconds or not units:
            units += work()
            spent = cpu_seconds() - began
        return Turn(units, spent)

    return turn


def interleave(sides: Mapping[str, Side], pace: Pace) -> dict[str, list[Turn]]:
    """`pace.turns` turns of every side, in alternation (A B C, then C B A, ...), after one turn each that does not count."""
    assert sides
    assert pace.turns >= 1, pace
    for side in sides.values():
        side(pace.seconds / 4)
    done: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(pace.turns):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in order:
            done[name].append(sides[name](pace.seconds))
    return done


@contextmanager
def one_core(pin: bool = True) -> Iterator[int | None]:
    """This process and the children it starts stay on one core (its number; None where the system or the caller does not pin)."""
    if not pin or not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    core = max(before)  # the first core answers most interrupts
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)
