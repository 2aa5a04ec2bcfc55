"""Tasks of every shape under their own presets: the contract, 2,000 training steps with peak memory, one picture of the team.

    python scripts/every_shape.py                          # all of them, into runs/every-shape
    python scripts/every_shape.py sisl/pursuit-v5 --steps 500 --out runs/shapes

Each run and each picture is made by `marl` in a process of its own. Exits with 1 where a rule of the contract is broken, a process
fails, or one took more than 4 GB.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from teamcredit.envs.check import broken_rules
from teamcredit.envs.registry import make
from teamcredit.marl.run import configure

LIMIT_GB = 4.0
# The options shorten episodes for the check alone, which plays each many times over; runs keep the task's own length.
SHORTER: dict[str, dict[str, Any]] = {
    "butterfly/knights_archers_zombies-v11": {"max_cycles": 120},
    "butterfly/cooperative_pong-v6": {"max_cycles": 80},
    "butterfly/pistonball-v6": {"max_cycles": 10},
    "sisl/pursuit-v5": {"max_cycles": 30},
    "mpe/simple_line": {},
    "mpe/simple_formation": {},
    "mpe/collect_treasure": {},
    "rware/tiny-2ag": {"max_steps": 100},
    "rware/small-4ag": {"max_steps": 100},
}


@dataclass
class Row:
    """One line of the table."""

    task: str
    check: str = ""
    env_steps: int = 0
    cpu_seconds: float = 0.0
    gigabytes: float = 0.0
    picture: str = ""
    failures: list[str] = field(default_factory=list)


def check(task: str, row: Row) -> None:
    """The contract on the task as its preset makes it, in shorter episodes."""
    options = configure(options={"task": task}, environ={}).config.env
    broken = broken_rules(make(task, **{**options, **SHORTER[task]}), episodes=1)
    row.check = "kept" if not broken else ", ".join(item.rule for item in broken)
    row.failures += [f"{item.rule}: {item.sentence}" for item in broken]


def marl(*words: str) -> tuple[int, str, float, float]:
    """Exit code, standard error, CPU seconds and peak memory in GB of one `marl` process."""
    with subprocess.Popen(
        [sys.executable, "-m", "teamcredit.marl.cli", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, said, used.ru_utime + used.ru_stime, peak_gigabytes(used)


def peak_gigabytes(used: resource.struct_rusage) -> float:
    """Linux counts kilobytes, macOS bytes."""
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def train_and_picture(task: str, algo: str, steps: int, out: Path, row: Row) -> None:
    run = out / f"{task.replace('/', '-')}-{algo}-{time.strftime('%H%M%S')}"
    code, said, row.cpu_seconds, row.gigabytes = marl("train", task, "--algo", algo, "--steps", str(steps), "--out", str(run), "--quiet")
    if code:
        row.failures.append(f"training ended with {code}: {said.strip()}")
        return
    row.env_steps = steps
    if row.gigabytes > LIMIT_GB:
        row.failures.append(f"training took {row.gigabytes:.1f} GB")
    picture = out / f"{run.name}.png"
    code, said, _, _ = marl("play", str(run), "--out", str(picture), "--steps", "20", "--quiet")
    row.picture = "failed" if code else picture.name
    if code:
        row.failures.append(f"the picture failed with {code}: {said.strip()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(SHORTER)}; default: all")
    parser.add_argument("--algo", default="qmix")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/every-shape"))
    arguments = parser.parse_args()
    unknown = [task for task in arguments.tasks if task not in SHORTER]
    if unknown:
        parser.error(f"no such task here: {', '.join(unknown)}")
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{'task':<38} {'contract':<10} {'env steps':>9} {'CPU s':>8} {'peak GB':>8}  picture", flush=True)
    failures: list[str] = []
    for task in arguments.tasks or SHORTER:
        row = Row(task)
        check(task, row)
        train_and_picture(task, arguments.algo, arguments.steps, arguments.out, row)
        print(f"{task:<38} {row.check:<10} {row.env_steps:>9,} {row.cpu_seconds:>8.0f} {row.gigabytes:>8.2f}  {row.picture}", flush=True)
        failures += [f"{task}: {failure}" for failure in row.failures]
    print("\n".join(failures) if failures else f"all kept, none above {LIMIT_GB:g} GB")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
