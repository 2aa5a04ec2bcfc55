"""What `marl bench speed` measures, in which sizes, and in which order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ...envs.errors import UnknownTask
from ...envs.registry import resolve
from ..kernels import find_compiler
from . import replay, scaling, stepping, updates
from .clock import Pace
from .rows import Row


@dataclass(frozen=True)
class Sizes:
    """How long and how large."""

    turns: int
    seconds: float
    """CPU seconds of one turn of one side."""
    copies: tuple[int, ...]
    originals: tuple[str, ...]
    minibatches: tuple[int, ...]
    algos: tuple[str, ...]
    env_copies: tuple[int, ...]
    agents: tuple[int, ...]
    seeds: tuple[int, ...]
    learning_starts: int
    memory_rounds: int
    compiled: bool
    """Also what is compiled, which takes a while."""


FULL = Sizes(
    turns=5, seconds=1.0, copies=stepping.COPIES, originals=tuple(stepping.ORIGINALS), minibatches=(32, 256), algos=("qmix", "vdn"),
    env_copies=scaling.COPIES, agents=scaling.AGENTS, seeds=scaling.SEEDS, learning_starts=10_000, memory_rounds=20, compiled=True,
)  # fmt: skip
QUICK = Sizes(
    turns=3, seconds=0.1, copies=(1_024,), originals=("native/spread",), minibatches=(32,), algos=("qmix",),
    env_copies=(8, 64), agents=(3, 16), seeds=(), learning_starts=1_000, memory_rounds=2, compiled=False,
)  # fmt: skip


def measurements(sizes: Sizes, seed: int) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """(a word for the person who waits, the measurement); of the tasks there are."""
    pace = Pace(sizes.turns, sizes.seconds, seed)
    compiled = sizes.compiled and find_compiler() is not None
    for task in filter(exists, sizes.originals):
        for copies in (1, sizes.copies[-1]):
            yield f"stepping {task}, {copies:,}", partial(stepping.measure_original, task, copies, pace)
    for copies in sizes.copies:
        yield f"stepping native/spread, {copies:,}", partial(stepping.measure_batched, copies, pace)
        if compiled:
            yield f"stepping native/spread compiled, {copies:,}", partial(stepping.measure_batched, copies, pace, compiled=True)
    for size in sizes.minibatches:
        yield f"replay, sampling {size}", partial(replay.measure_sample, size, pace)
    yield "replay, adding", partial(replay.measure_add, pace)
    for algo in sizes.algos:
        yield f"training {algo}", partial(scaling.measure_training, algo, sizes.learning_starts, pace)
        if compiled:
            yield f"training {algo} compiled", partial(scaling.measure_compiled, algo, sizes.learning_starts, pace)
        yield f"update of {algo}", partial(updates.measure_floor, algo, pace)
    yield "training with more copies", partial(scaling.measure_copies, sizes.algos[-1], sizes.env_copies, pace)
    yield "training with more agents", partial(scaling.measure_agents, "vdn", sizes.agents, pace)
    if sizes.seeds:
        yield "training several seeds", partial(scaling.measure_seeds, scaling.seeds_together("vdn"), sizes.seeds, pace)
    yield "memory", partial(scaling.measure_memory, "native/spread", sizes.algos[0], sizes.memory_rounds)


def exists(task: str) -> bool:
    """Whether there is a task of that id."""
    try:
        resolve(task)
    except UnknownTask:
        return False
    return True
