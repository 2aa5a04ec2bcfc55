"""A worker process: a `LocalCrew` moved from afar. Orders and answers go through a pipe, rows through shared memory.

`vector.py` is the other side. The worker is a fresh interpreter that makes the task again by its name and options, so
nothing is forked (unsafe once torch or pygame run) and the program's main script is not run again. What its environments
raise is sent back and raised there. It ends when it is told to, and at once when the process that started it is gone.
"""

import mmap
import os
import select
import signal
import sys
import threading
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from .crew import Job
from .layout import Layout
from .live import Rows
from .plain import compact

BOOT = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
from importlib import import_module
from multiprocessing.connection import Connection
orders = Connection(int(sys.argv[1]))
sys.path[:] = orders.recv()
import_module(sys.argv[2]).main(orders)
"""
"""What the interpreter is given to run. A signal to the whole group is for the parent, which may want to save first."""

HEADER = 64


@dataclass(frozen=True)
class Order:
    """A message to a worker (None tells it to end)."""

    number: int
    """Counts up; the answer bears it."""
    rows: int
    """Rows the shared memory holds now."""
    jobs: list[Job]
    """What a job leaves is seen in the row of its slot. So several orders may be under way, of different slots."""


class Contract(NamedTuple):
    """The first message: what the worker is to make, and the memory it shares."""

    task: str
    options: dict[str, Any]
    layout: Layout
    memory: int
    """File descriptor."""


class Block:
    """`count` rows in a nameless file that two processes map, one for each slot, and what the worker is busy with."""

    def __init__(self, descriptor: int, layout: Layout, count: int):
        memory = mmap.mmap(descriptor, self.size(layout, count))
        self.count = count
        self.job = np.ndarray(1, dtype=np.int64, buffer=memory)
        """Position of the job in its order."""
        self.order = np.ndarray(1, dtype=np.int64, buffer=memory, offset=8)
        """Number of the order that is being done, 0 between orders."""
        self.rows = Rows(layout, count, memoryview(memory)[HEADER:])

    @staticmethod
    def size(layout: Layout, count: int) -> int:
        """Bytes."""
        return HEADER + Rows.size(layout, count)


@dataclass(frozen=True)
class Failure:
    """An exception on its way to another process, which may not be able to make it again from its arguments alone."""

    job: int
    cls: type[Exception]
    args: tuple[Any, ...]
    state: dict[str, Any]
    frames: list[tuple[str, int, str]]
    """File, line, function; the last one raised."""
    trace: str

    @classmethod
    def of(cls, job: int, error: Exception) -> "Failure":
        found = [(frame.filename, frame.lineno or 0, frame.name) for frame in traceback.extract_tb(error.__traceback__)]
        trace = "".join(traceback.format_exception(error))
        kind, state = type(error), dict(vars(error))
        named = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind
        if not (named and _is_plain(error.args) and _is_plain(state)):
            return cls(job, RuntimeError, (f"{kind.__name__}: {error}",), {}, found, trace)
        return cls(job, kind, error.args, state, found, trace)

    def revive(self, who: str) -> Exception:
        """The exception again: same class, sentence and attributes, with the worker's trace as a note."""
        error = self.cls.__new__(self.cls, *self.args)
        # Not the class's own constructor, which may take other arguments than those it hands on.
        next(base for base in self.cls.__mro__ if base.__module__ == "builtins").__init__(error, *self.args)
        vars(error).update(self.state)
        error.add_note(f"Raised in {who}:\n{self.trace}")
        vars(error)["frames_in_worker"] = self.frames
        return error


def _is_plain(value: Any) -> bool:
    """Whether another process reads `value` as it is: no object whose class may pickle and then refuse to be made again."""
    if type(value) in (tuple, list):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, (*value, *value.values())))
    return type(value) in (str, bytes, bool, int, float, complex, type(None)) or isinstance(value, np.number | np.bool_)


class _Answering:
    """Answers an order, with what its block raised if it did; the interpreter's own ways to end pass through."""

    def __init__(self, orders: Connection, number: int, job: np.ndarray, busy: np.ndarray):
        self.orders, self.number, self.job, self.busy = orders, number, job, busy

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False
        self.busy[0] = 0
        self.orders.send((self.number, None if error is None else Failure.of(int(self.job[0]), error)))
        return True


def main(orders: Connection) -> None:
    """Serve until told to end."""
    threading.Thread(target=_end_with_parent, args=(orders.fileno(),), daemon=True).start()
    warnings.simplefilter("ignore")  # the parent made the same task and has shown what it warns of
    task, options, layout, memory = orders.recv()
    for descriptor in (orders.fileno(), memory):
        os.set_inheritable(descriptor, False)
    crew = None
    with _Answering(orders, 0, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)):
        import torch

        from .registry import make

        torch.set_num_threads(1)
        crew = make(task, **options).here
        crew.follow(layout)  # the parent's: it may list a set of agents in another order than this process
    if crew is None:
        return
    block: Block | None = None
    while (order := orders.recv()) is not None:
        if block is None or block.count != order.rows:
            block = Block(memory, layout, order.rows)
            crew.job = block.job
        own, count = Rows(layout, len(order.jobs)), len(order.jobs)
        block.order[0] = order.number
        with _Answering(orders, order.number, crew.job, block.order):
            crew.run(order.jobs, own, range(count), told=lambda _: "")
            block.rows.put(compact([job.slot for job in order.jobs]), own, slice(None))
    crew.close()


def _end_with_parent(descriptor: int) -> None:
    """Ends this process when the other end of the pipe is closed, whatever the environments are busy with."""
    poll = select.poll()
    poll.register(descriptor, 0)  # hanging up is reported unasked
    poll.poll()
    os._exit(128 + signal.SIGHUP)
