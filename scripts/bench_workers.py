"""Env steps per wall second with worker processes beside one process, for bare stepping and for training.

The ways are timed in turns (several rounds of each, interleaved), so that what else the machine does falls on all alike;
each turn gives one ratio to the serial turn beside it, and their median, lowest and highest are printed. Bare stepping takes
random available actions; every way plays the same episodes, and whether all that was seen is equal is printed too.

    python scripts/bench_workers.py                                     # mpe/simple_spread, sisl/pursuit-v5; 1 and 2 workers
    python scripts/bench_workers.py lbf/8x8-2p-3f --copies 16 --workers 4
"""

import argparse
import hashlib
import json
import os
import statistics
import time
from typing import Any

import torch
from teamcredit.envs.base import TeamEnv, View
from teamcredit.envs.randomness import POLICY, Clock, copy_seeds
from teamcredit.envs.registry import make
from teamcredit.marl.exploration import uniform_policy
from teamcredit.marl.run import configure, make_env
from teamcredit.marl.trainer import Trainer


class Stepping:
    """Copies of a task that go on from turn to turn, and a digest of all that was seen."""

    def __init__(self, task: str, copies: int, workers: int):
        self.env: TeamEnv = make(task, workers=workers)
        seeds = copy_seeds(1, copies)
        self.state, self.view = self.env.reset(seeds)
        self.clock, self.digest = Clock.start(seeds), hashlib.sha256()

    def turn(self, steps: int) -> float:
        """Seconds inside the environment for `steps` env steps of every copy."""
        spent = 0.0
        for _ in range(steps):
            action = uniform_policy(self.view.available, self.clock.key(POLICY))
            began = time.perf_counter()
            self.state, step, self.view = self.env.step(self.state, action)
            spent += time.perf_counter() - began
            self.clock = self.clock.tick(step.terminated | step.truncated)
            for tensor in (step.reward, step.terminated, step.truncated, *_tensors(step.after), *_tensors(self.view)):
                self.digest.update(tensor.numpy().tobytes())
        return spent

    def outcome(self) -> str:
        return self.digest.hexdigest()


class Training:
    """A trainer that goes on from turn to turn."""

    def __init__(self, task: str, copies: int, workers: int):
        sizes = {"replay.num_envs": copies, "replay.rollout_steps": 16, "replay.minibatch_size": 4 * copies}
        config = configure(options={"task": task, "workers": workers, **sizes}, environ={}).config
        self.trainer = Trainer(config, make_env(config))
        self.env = self.trainer.env

    def turn(self, steps: int) -> float:
        """Seconds for as many rounds as hold `steps` env steps of every copy, at least one."""
        began = time.perf_counter()
        for _ in range(max(steps // self.trainer.config.replay.rollout_steps, 1)):
            self.trainer.round()
        return time.perf_counter() - began

    def outcome(self) -> str:
        weights = [value.numpy().tobytes() for value in self.trainer.networks.state_dict().values()]
        return hashlib.sha256(b"".join(weights)).hexdigest()


def _tensors(view: View) -> list[torch.Tensor]:
    return [view.obs, view.state, view.available, view.alive]


def measure(kind: type[Stepping] | type[Training], task: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each number of workers, 0 first."""
    ways = {workers: kind(task, args.copies, workers) for workers in (0, *args.workers)}
    steps = 16
    for way in ways.values():
        way.turn(steps)  # workers start, caches fill
    steps = max(16, int(steps * args.seconds / ways[0].turn(steps)) // 16 * 16)
    for workers, way in ways.items():
        if workers:
            way.turn(16)  # as far as the serial one
    speeds: dict[int, list[float]] = {workers: [] for workers in ways}
    for turn in range(args.turns):
        order = list(ways) if turn % 2 == 0 else list(reversed(ways))
        for workers in order:
            speeds[workers].append(args.copies * steps / ways[workers].turn(steps))
    outcomes = {workers: way.outcome() for workers, way in ways.items()}
    rows = []
    for workers, speed in speeds.items():
        ratios = [mine / serial for mine, serial in zip(speed, speeds[0], strict=True)]
        equal = outcomes[workers] == outcomes[0]
        rows.append(
            {
                "task": task, "what": kind.__name__.lower(), "workers": workers, "copies": args.copies,
                "steps_per_second": statistics.median(speed), "ratio": statistics.median(ratios), "ratio_min": min(ratios),
                "ratio_max": max(ratios), "equal": equal,
            }
        )  # fmt: skip
        ways[workers].env.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["mpe/simple_spread", "sisl/pursuit-v5"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="wall seconds of one serial turn")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for task in args.tasks for kind in (Stepping, Training) for row in measure(kind, task, args)]
    load = os.getloadavg()[0]
    if args.json:
        print(json.dumps({"schema": 1, "cores": os.cpu_count(), "load": load, "rows": rows}))
        return
    print(f"{os.cpu_count()} cores, load {load:.1f}; {args.copies} copies, {args.turns} interleaved turns of about {args.seconds:g} s")
    for row in rows:
        spread = f"ratio {row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
        equal = "equal" if row["equal"] else "DIFFERENT"
        what = f"{row['task']:20} {row['what']:9} {row['workers']} workers"
        print(f"{what}  {row['steps_per_second']:8,.0f} env steps/s  {spread}  {equal}")


if __name__ == "__main__":
    main()
