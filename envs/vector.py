"""Several Python environments stepped in worker processes: the same numbers as in this process, on more cores.

The state of every copy (which episode, which actions, what was seen) stays here, in `Episodes`; the workers hold live
environments only (worker.py). Slot s lives in worker s % W, as number s // W there, and copy i takes a slot of worker
i % W, so a batch of copies is spread evenly. `run` sends one order to each worker before it waits for any answer; jobs that are
submitted one by one queue up at their workers and are waited for in any order (asynchronous.py). A worker starts when it
gets its first job, so with more workers than copies some are never started.

A worker that dies is named with what it was doing. Waiting has no time limit: an environment may take its time here as
it may in one process; a worker that is gone is noticed within a second.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from select import POLLIN, poll
from typing import Any

from .crew import Job, Ticket
from .errors import WorkerDied
from .layout import Layout
from .live import Rows
from .pettingzoo import PettingZooTeam
from .plain import compact
from .worker import BOOT, Block, Contract, Failure, Order, main

PATIENCE = 5.0
"""Seconds a worker has to close its environments and end, before it is killed."""


def put_to_work(env: Any, task: str | Callable[..., Any], options: Mapping[str, Any], workers: int) -> PettingZooTeam:
    """Have `workers` processes step the copies of `env`, which `make(task, **options)` gave.

    Raises:
        ValueError: a task that is stepped as tensors; a task or an option that cannot be sent to another process.
    """
    name = task if isinstance(task, str) else name_of(task)
    if not isinstance(env, PettingZooTeam):
        raise ValueError(f"workers {workers}: {name} is stepped as tensors in this process; leave out --workers")
    if workers < 1:
        raise ValueError(f"workers {workers} must be at least 1, or 0 to step in this process")
    if os.name != "posix":
        raise ValueError(f"workers {workers}: worker processes need Linux or macOS; leave out --workers")
    for option, value in options.items():
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(f"option {option} of {name} cannot be sent to a worker process ({error}); leave out --workers") from error
    env.work_in(ProcessCrew(name, options, env.here.layout, workers))
    return env


def name_of(maker: Callable[..., Any]) -> str:
    """module:function of a maker, by which another process finds it; ValueError for one that has no such name."""
    module, name = getattr(maker, "__module__", None), getattr(maker, "__qualname__", "<no name>")
    if module in (None, "__main__") or not name.isidentifier() or getattr(sys.modules.get(module), name, None) is not maker:
        raise ValueError(f"{name} of {module} cannot be found again by another process")
    return f"{module}:{name}"


@dataclass(frozen=True, eq=False)
class _Errand:
    """An order under way, as its sender knows it: job k comes to row `where[k]`, and `told(k)` says what it is about."""

    worker: int
    jobs: list[Job]
    rows: Rows
    where: list[int]
    told: Callable[[int], str]


class ProcessCrew:
    """Environments in worker processes, moved side by side."""

    def __init__(self, task: str, options: Mapping[str, Any], layout: Layout, workers: int):
        self.task, self.options, self.layout, self.count = task, dict(options), layout, workers
        self._free: list[list[int]] = [[] for _ in range(workers)]
        self._slots = list(range(workers))  # the next new slot of each worker
        self._workers: dict[int, _Worker] = {}
        self._number = 0
        self._errands: dict[int, _Errand] = {}
        """Orders that were not answered yet, by number."""
        self._answers: dict[int, Failure | None] = {}  # that nobody has asked for yet
        self._end = weakref.finalize(self, _dismiss, self._workers, os.getpid())

    def take(self, copies: Iterable[int]) -> list[int]:
        return [free.pop() if (free := self._free[copy % self.count]) else self._new_slot(copy % self.count) for copy in copies]

    def pool(self, slot: int) -> list[int]:
        return self._free[slot % self.count]

    def holds(self, slot: int) -> bool:
        worker = self._workers.get(slot % self.count)
        return worker is not None and slot // self.count in worker.slots

    def run(self, jobs: Sequence[Job], rows: Rows, where: Sequence[int], *, told: Callable[[int], str]) -> None:
        shares: dict[int, list[int]] = {}
        for position, job in enumerate(jobs):
            shares.setdefault(job.slot % self.count, []).append(position)
        numbers: dict[int, list[int]] = {}
        for worker, share in shares.items():
            errand = _Errand(worker, [jobs[k] for k in share], rows, [where[k] for k in share], lambda k, share=share: told(share[k]))
            numbers[self._register(errand)] = share
        failures: list[tuple[int, int, Failure]] = []
        try:
            self._send(numbers)
            for number, share in numbers.items():
                worker = jobs[share[0]].slot % self.count
                while number not in self._answers:
                    self._receive(worker)
                if (failure := self._answers[number]) is not None:
                    failures.append((share[failure.job], worker, failure))
        finally:
            for number in numbers:  # of an interrupted call, too: nobody waits for those any more
                self._forget(number)
        if failures:
            _, worker, failure = min(failures, key=lambda entry: entry[0])  # as if they had been moved one after another
            raise failure.revive(self._name(worker))

    def submit(self, job: Job, rows: Rows, index: int, *, told: Callable[[], str]) -> Ticket:
        number = self._register(_Errand(job.slot % self.count, [job], rows, [index], lambda _: told()))
        self._send([number])
        return Ticket(job, rows, index, told, number)

    def wait(self, tickets: Sequence[Ticket], minimum: int) -> list[Ticket]:
        ready = poll()
        busy = {ticket.job.slot % self.count for ticket in tickets if ticket.number in self._errands}
        workers = {self._workers[number].pipe.fileno(): number for number in busy}
        for descriptor in workers:
            ready.register(descriptor, POLLIN)
        events = ready.poll(0) if workers else []
        while True:
            for descriptor, _ in events:
                self._receive(workers[descriptor])
            done = [ticket for ticket in tickets if ticket.number in self._answers]
            if len(done) >= minimum:
                break
            assert any(ticket.number in self._errands for ticket in tickets), "waiting for jobs that nobody does"
            events = ready.poll(1000) or [(at, POLLIN) for at, number in workers.items() if self._workers[number].is_gone]
        for ticket in done:
            if (failure := self._forget(ticket.number)) is not None:
                raise failure.revive(self._name(ticket.job.slot % self.count))
        return done

    def drop(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            self._forget(ticket.number)

    def _register(self, errand: _Errand) -> int:
        self._number += 1
        self._errands[self._number] = errand
        return self._number

    def _forget(self, number: int) -> Failure | None:
        self._errands.pop(number, None)
        return self._answers.pop(number, None)

    def _send(self, numbers: Iterable[int]) -> None:
        """Give these orders to their workers, which are started where they do not run yet."""
        errands = {number: self._errands[number] for number in numbers}
        number = -1
        try:
            for number in {errand.worker for errand in errands.values()} - self._workers.keys():
                self._workers[number] = _Worker(Contract(self.task, self.options, self.layout, _nameless_file()))
                self._workers[number].greet()
            for number in {errand.worker for errand in errands.values()}:
                if (failure := self._workers[number].wait_until_ready()) is not None:
                    error = failure.revive(self._name(number))
                    self.close()
                    raise error
            for order, errand in errands.items():
                number = errand.worker
                self._workers[number].order(order, [Job(job.slot // self.count, job.seed, job.joints) for job in errand.jobs])
        except (EOFError, ConnectionError) as gone:
            raise self._death(number) from gone

    def _receive(self, number: int) -> None:
        """Take one answer of this worker, and what it has left where somebody waits for it."""
        try:
            answered, failure = self._workers[number].answer()
        except (EOFError, ConnectionError) as gone:
            raise self._death(number) from gone
        if (errand := self._errands.pop(answered, None)) is None:  # what an interrupted call had not waited for
            return
        if failure is None:
            slots = compact([job.slot // self.count for job in errand.jobs])
            errand.rows.put(compact(errand.where), self._workers[number].block.rows, slots)
        self._answers[answered] = failure

    def close(self) -> None:
        """End the workers. The next job starts new ones."""
        _dismiss(self._workers, os.getpid())
        self._errands.clear()
        self._answers.clear()

    def _new_slot(self, worker: int) -> int:
        self._slots[worker] += self.count
        return self._slots[worker] - self.count

    def _name(self, number: int) -> str:
        return f"worker {number + 1} of {self.count} (process {self._workers[number].process.pid})"

    def _death(self, number: int) -> WorkerDied:
        """What became of a worker that is gone; the others are ended."""
        worker, name = self._workers[number], self._name(number)
        code, order, job = worker.process.wait(), int(worker.block.order[0]), int(worker.block.job[0])
        errands = {number_: errand for number_, errand in self._errands.items() if errand.worker == number}
        doing = errands[order].told(job) if order in errands else None
        told = [errand.told(k) for errand in errands.values() for k in range(len(errand.jobs))]
        self.close()
        return WorkerDied(name, self.layout.name, code, doing, [text for text in told if text != doing])


class _Worker:
    """One worker process as seen from here."""

    def __init__(self, contract: Contract):
        self.contract, self.ready = contract, False
        self.slots: set[int] = set()
        self.block = self._map(8)
        self.pipe, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT, str(theirs.fileno()), main.__module__],
            pass_fds=(theirs.fileno(), contract.memory),
            stdin=subprocess.DEVNULL,
            stdout=2,  # what environments print must not mix with the program's own output
            env={"OMP_NUM_THREADS": "1", **os.environ},
            start_new_session=True,  # a Ctrl-C is for the parent alone
        )
        theirs.close()

    @property
    def is_gone(self) -> bool:
        return self.process.poll() is not None

    def greet(self) -> None:
        """Say where its modules are and what it will do; ConnectionError where it is gone already."""
        self.pipe.send(sys.path)
        self.pipe.send(self.contract)

    def wait_until_ready(self) -> Failure | None:
        """What the task raised while it was made, if it did."""
        failure = None if self.ready else self.answer()[1]
        self.ready = failure is None
        return failure

    def order(self, number: int, jobs: list[Job]) -> None:
        slots = max(job.slot for job in jobs) + 1
        if slots > self.block.count:
            self.block = self._map(max(slots, 2 * self.block.count))
        self.slots.update(job.slot for job in jobs)
        self.pipe.send(Order(number, self.block.count, jobs))

    def answer(self) -> tuple[int, Failure | None]:
        """The next answer, and the number of its order; EOFError where the worker is gone."""
        while not self.pipe.poll(1.0):
            # A process that the environment forked may hold the worker's end of the pipe open.
            if self.is_gone and not self.pipe.poll():
                raise EOFError
        return self.pipe.recv()

    def _map(self, count: int) -> Block:
        os.ftruncate(self.contract.memory, Block.size(self.contract.layout, count))
        return Block(self.contract.memory, self.contract.layout, count)


def _nameless_file() -> int:
    """A descriptor of memory that another process can map."""
    if sys.platform == "linux":
        return os.memfd_create("teamcredit-rows")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _dismiss(workers: dict[int, _Worker], owner: int) -> None:
    """End these workers: politely first."""
    if os.getpid() != owner:  # a forked copy of the process that started them
        return
    leaving = list(workers.values())
    workers.clear()
    for worker in leaving:
        with suppress(ConnectionError):
            worker.pipe.send(None)
    deadline = time.monotonic() + PATIENCE
    for worker in leaving:
        try:
            worker.process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.pipe.close()
        os.close(worker.contract.memory)
