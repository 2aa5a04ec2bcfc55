"""Several seeds trained at once beside one: the ratio of the times of a round, which is 1 at best and the number of seeds at worst.

One and all take turns in one run; printed are the medians of wall and CPU seconds a round, and the ratio with its lowest and highest.
Compiling and recording are over before the first turn. `plain` and `defaults` are small batches, where one seed's time is mostly
overhead; `peers` (QMIX-GRU, JaxMARL's settings) and `spread` (the preset, 128 copies) are mostly arithmetic, which grows with the seeds.
Wall time is meant for free cores: look at the load in the header.

    python scripts/bench_seeds.py                                        # ten seeds, eager, one thread
    python scripts/bench_seeds.py peers spread --threads 2 --compile on
    python scripts/bench_seeds.py --processes 2 --compile on             # five seeds in each of two processes (marl train --jobs 2)
    python scripts/bench_seeds.py plain --seeds 4 --turns 9
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from typing import Any

import torch
from teamcredit.marl.bench.machine import describe, sentence
from teamcredit.marl.bench.updates import RECURRENT
from teamcredit.marl.cli_output import table
from teamcredit.marl.config import Config
from teamcredit.marl.run import configure, make_env
from teamcredit.marl.seeds import Together
from teamcredit.marl.trainer import Trainer

SMALL = {"sampling": "uniform", "rollout_steps": 32, "minibatch_size": 32, "capacity": 20_000}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("none", {"network": {"hidden": 64}, "replay": SMALL}),
    "defaults": ("none", {}),
    "peers": ("none", RECURRENT | {"replay": RECURRENT["replay"] | {"learning_starts": 1_000, "capacity": 20_800}}),
    "spread": ("spread", {}),
}


def configs(name: str, algo: str, compile: str, count: int) -> list[Config]:
    """The settings of that name for seeds 0, 1, ..."""
    preset, options = SETTINGS[name]
    flat = {f"{section}.{key}": value for section, values in options.items() for key, value in values.items()}
    flat |= {"task": "native/spread", "algo": algo, "steps": 1_000_000_000, "compile": compile}
    return [configure(preset=preset, options=flat | {"seed": seed}, environ={}).config for seed in range(count)]


def warmed(learning: Trainer | Together, counted: Trainer) -> Callable[[], None]:
    """Its rounds, after some with iterations."""
    while not counted.counters.iterations:
        learning.round()
    for _ in range(3):
        learning.round()
    return learning.round


class Neighbour:
    """A process that trains its share of the seeds while this one trains its own."""

    def __init__(self, name: str, arguments: argparse.Namespace, count: int):
        context = multiprocessing.get_context("spawn")
        self.busy, self.idle = context.Event(), context.Event()
        self.process = context.Process(target=keep_busy, args=(name, arguments, count, self.busy, self.idle), daemon=True)
        self.process.start()


def keep_busy(name: str, arguments: argparse.Namespace, count: int, busy: Event, idle: Event) -> None:
    """Rounds of `count` seeds whenever `busy` is set; `idle` says that none is under way."""
    torch.set_num_threads(arguments.threads)
    made = configs(name, arguments.algo, arguments.compile, count)
    group = Together(made, make_env(made[0]))
    many = warmed(group, group.lead)
    while True:
        idle.set()
        busy.wait()
        idle.clear()
        while busy.is_set():
            many()


def beside(neighbours: list[Neighbour], work: Callable[[], None], seconds: float) -> tuple[float, float]:
    """A turn with the neighbours at work; the CPU seconds of all processes, whose rounds are alike."""
    for each in neighbours:
        each.busy.set()
    wall, cpu = turn(work, seconds)
    for each in neighbours:
        each.busy.clear()
    for each in neighbours:
        each.idle.wait()
    return wall, cpu * (1 + len(neighbours))


def turn(work: Callable[[], None], seconds: float) -> tuple[float, float]:
    """Wall and CPU seconds a round."""
    wall, cpu, rounds = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds or not rounds:
        work()
        rounds += 1
    return (time.perf_counter() - wall) / rounds, (time.process_time() - cpu) / rounds


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One line of the table."""
    made = configs(name, arguments.algo, arguments.compile, arguments.seeds)
    env, share = make_env(made[0]), -(-arguments.seeds // arguments.processes)
    single, group = Trainer(made[0], env), Together(made[:share], env)
    one, many = warmed(single, single), warmed(group, group.lead)
    neighbours = [Neighbour(name, arguments, share) for _ in range(arguments.processes - 1)]
    for each in neighbours:
        each.idle.wait()
    turns = []
    for number in range(arguments.turns):
        order = (one, many) if number % 2 == 0 else (many, one)
        measured = [beside(neighbours if work is many else [], work, arguments.seconds) for work in order]
        turns.append(measured if number % 2 == 0 else measured[::-1])
    for each in neighbours:
        each.process.kill()
    ratios = {kind: sorted(many[k] / one[k] for one, many in turns) for k, kind in enumerate(("wall", "cpu"))}
    return {
        "settings": name,
        "engine": f"{single.choice.engine}, {group.lead.choice.engine}",
        "one": [statistics.median(one[k] for one, _ in turns) for k in range(2)],
        "all": [statistics.median(many[k] for _, many in turns) for k in range(2)],
        **{f"{kind}_ratio": [statistics.median(values), values[0], values[-1]] for kind, values in ratios.items()},
    }


def line(row: dict[str, Any]) -> list[str]:
    cells = [row["settings"], row["engine"]]
    cells += [f"{1e3 * wall:.1f} ({1e3 * cpu:.1f})" for wall, cpu in (row["one"], row["all"])]
    return cells + ["{:.2f} ({:.2f} to {:.2f})".format(*row[f"{kind}_ratio"]) for kind in ("wall", "cpu")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("settings", nargs="*", help=f"of {', '.join(SETTINGS)}; default: all")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--algo", default="qmix")
    parser.add_argument("--compile", choices=("on", "off"), default="off")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="that share the seeds (their number must divide that of the seeds)")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="wall seconds of one turn of one side, at least")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.settings) - set(SETTINGS):
        parser.error(f"no settings {', '.join(sorted(unknown))}: choose from {', '.join(SETTINGS)}")
    if arguments.seeds % arguments.processes:
        parser.error(f"{arguments.seeds} seeds cannot be shared equally among {arguments.processes} processes")
    torch.set_num_threads(arguments.threads)
    rows = [measure(name, arguments) for name in arguments.settings or SETTINGS]
    header = describe(None) | {"threads": arguments.threads, "processes": arguments.processes, "seeds": arguments.seeds}
    if arguments.json:
        print(json.dumps(header | {"rows": rows}))
        return
    head = ("settings", "one, all", "one: ms a round (CPU)", f"{arguments.seeds} seeds (CPU)", "ratio of wall times", "of CPU times")
    print(f"{sentence(header)}\n\n{table(head, [line(row) for row in rows])}")


if __name__ == "__main__":
    main()
