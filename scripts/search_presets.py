"""Train one task under several settings and seeds, and print what each reached for how many CPU seconds: the search behind the presets.

    python scripts/search_presets.py native/spread --preset spread --steps 5M --seeds 0-1 --try algo=vdn --try algo=vdn learner.lr=2e-3

Every --try is one setting over the preset. A line of JSON per run: the setting, seed, greedy return over 1,000 episodes with its
standard error, CPU seconds of the whole process tree (compiling included) and wall seconds.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from teamcredit.marl.allocator import keep_freed_memory
from teamcredit.marl.evaluate import EVALUATION_SEEDS, play, seeds_from
from teamcredit.marl.resolve import convert
from teamcredit.marl.run import configure, make_env
from teamcredit.marl.trainer import Trainer

EPISODES = 1_000


def cpu_seconds() -> float:
    """Of this process and the compilers it started."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def run(task: str, preset: str, options: dict[str, Any], steps: int, seed: int) -> dict[str, Any]:
    """One run from the start to the end of training, then the greedy team's episodes (not counted)."""
    config = configure(preset=preset, options={"task": task, "steps": steps, "seed": seed, **options}, environ={}).config
    cpu, wall = cpu_seconds(), time.monotonic()
    trainer = Trainer(config, make_env(config))
    while not trainer.finished:
        trainer.round()
    trainer.settle()
    cpu, wall = cpu_seconds() - cpu, time.monotonic() - wall
    returns = play(trainer.env, trainer.team, seeds_from(EVALUATION_SEEDS, EPISODES)).returns
    return {
        "setting": options, "seed": seed, "steps": steps, "return": float(returns.mean()), "error": float(returns.std() / EPISODES**0.5),
        "cpu": cpu, "wall": wall, "engine": trainer.choice.engine,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--preset", required=True)
    parser.add_argument("--steps", default="3M")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--try", dest="settings", nargs="+", action="append", required=True, metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON Lines to append to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    first, _, last = arguments.seeds.partition("-")
    steps = convert(arguments.steps, int, "--steps")
    for setting in arguments.settings:
        options: dict[str, Any] = dict(pair.split("=", 1) for pair in setting)
        for seed in range(int(first), int(last or first) + 1):
            line = json.dumps(run(arguments.task, arguments.preset, options, steps, seed))
            print(line, flush=True)
            if arguments.out is not None:
                with arguments.out.open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
