"""Training speed, and how it grows with copies, agents and seeds; the most memory a training run holds.

One unit is one env step of training: collected, stored, and learned from as often as the settings say.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..seeds import Together
from ..trainer import Trainer
from .clock import Pace, Side, steady
from .rows import Row, compare
from .updates import RECURRENT, trainer

UNIT = "env steps per CPU second"
AGENTS = (3, 8, 16, 32, 64)
COPIES = (8, 64, 512)
SEEDS = (1, 10)


def rounds_of(learning: Trainer) -> Callable[[], float]:
    """One round of collecting and learning; its units are env steps."""

    def work() -> float:
        before = learning.counters.env_steps
        learning.round()
        return float(learning.counters.env_steps - before)

    return work


def warmed(learning: Trainer) -> Trainer:
    """After the first iteration."""
    while not learning.counters.iterations:
        learning.round()
    return learning


def measure_training(algo: str, starts: int, pace: Pace) -> list[Row]:
    """Recurrent agents under JaxMARL's settings beside the task's own preset (memoryless, fresh batches)."""
    peer = "ours, preset spread"
    ours, theirs = _recurrent(algo, starts, pace), warmed(trainer(algo, {}, preset="spread", seed=pace.seed))
    note = {peer: "8 copies x 26 steps, an update of 32 windows; JaxMARL itself: scripts/bench_peers.py"}
    what = f"training {algo}-gru on native/spread, JaxMARL's settings"
    return compare(what, UNIT, steady(rounds_of(ours)), {peer: steady(rounds_of(theirs))}, pace=pace, notes=note)


def measure_compiled(algo: str, starts: int, pace: Pace) -> list[Row]:
    """The same compiled beside eager; compiling is over before the first turn."""
    compiled, eager = (steady(rounds_of(_recurrent(algo, starts, pace, compile=mode))) for mode in ("on", "off"))
    what = f"training {algo}-gru on native/spread, JaxMARL's settings, compiled"
    return compare(what, UNIT, compiled, {"ours, eager": eager}, pace=pace)


def _recurrent(algo: str, starts: int, pace: Pace, **options: Any) -> Trainer:
    """JaxMARL's settings, learning from `starts` env steps on."""
    options |= {"replay": RECURRENT["replay"] | {"learning_starts": starts}}
    return warmed(trainer(algo, RECURRENT | options, seed=pace.seed))


def measure_copies(algo: str, counts: Sequence[int], pace: Pace) -> list[Row]:
    """Training with more copies beside the fewest, batches and minibatches growing with them."""
    sides = {count: steady(rounds_of(warmed(trainer(algo, _split(count), preset="spread", seed=pace.seed)))) for count in counts}
    return _growth(f"training {algo} on native/spread, %s copies", "%s copies", sides, pace=pace)


def measure_agents(algo: str, counts: Sequence[int], pace: Pace) -> list[Row]:
    """Training spread with more agents (and landmarks) beside the fewest."""

    def side(count: int) -> Side:
        return steady(rounds_of(warmed(trainer(algo, _split(32), task=f"native/spread-{count}", preset="spread", seed=pace.seed))))

    sides = {count: side(count) for count in counts}
    return _growth(f"training {algo} on native/spread, %s agents", "%s agents", sides, pace=pace)


def measure_seeds(make: Callable[[int], Callable[[], float]], counts: Sequence[int], pace: Pace) -> list[Row]:
    """Training several seeds beside one: `make(count)` gives a piece of work that trains `count` seeds and returns their env steps."""
    sides = {count: steady(make(count)) for count in counts}
    return _growth("training %s seeds", "%s seed", sides, pace=pace)


def seeds_together(algo: str) -> Callable[[int], Callable[[], float]]:
    """Seeds trained at once in one process (a single one as it always is); small batches, where most of one seed's time is overhead."""

    def make(count: int) -> Callable[[], float]:
        alone = [trainer(algo, _split(1), preset="spread", seed=seed) for seed in range(count)]
        if count == 1:
            return rounds_of(warmed(alone[0]))
        together = Together([each.config for each in alone], alone[0].env)
        together.round()

        def work() -> float:
            before = together.lead.counters.env_steps
            together.round()
            return float(count * (together.lead.counters.env_steps - before))

        return work

    return make


def measure_memory(task: str, algo: str, rounds: int) -> list[Row]:
    """The most memory that a process holds which trains `rounds` rounds under the task's own preset, beside one that only imports."""
    trained, imported = (_peak_of(task, algo, str(count)) for count in (rounds, 0))
    return [
        Row(
            f"peak memory, training {algo} on {task}", "the imports alone", "MB", trained, imported, trained / imported,
            note=f"{rounds} rounds; less is better",
        )
    ]  # fmt: skip


def _peak_of(*words: str) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "teamcredit.marl.bench.memory", *words], capture_output=True, text=True, check=True
    )  # fmt: skip
    return int(done.stdout) / 1e6


def _growth(what: str, peer: str, sides: Mapping[int, Side], pace: Pace) -> list[Row]:
    """One row per size beside the first."""
    (first, base), *others = sides.items()
    rows = []
    for count, side in others:
        rows += compare(what % f"{count:,}", UNIT, side, {peer % first: base}, pace=pace)
    return rows


def _split(copies: int) -> dict[str, Any]:
    return {"replay": {"num_envs": copies, "rollout_steps": 16, "minibatch_size": 4 * copies}}
