"""Env steps per wall second with worker processes beside one process: stepping, stepping as copies get ready, training.

The ways are timed in turns (several rounds of each, interleaved, every other turn in reverse order), so that what else the
machine does falls on all alike. Each turn gives a ratio to this process's turn beside it (serial) and one to the turn of a
single worker; their medians, lowest and highest are printed. Two workers need two free cores: look at the load in the header.
Stepping takes random available actions; every way plays the same episodes, and whether all that came out is equal is printed too.

    python scripts/bench_workers.py                                     # pursuit (4 ms), KAZ (1 ms), burning (2 ms), spread (0.3 ms)
    python scripts/bench_workers.py lbf/8x8-2p-3f --copies 16 --workers 1 4
    python scripts/bench_workers.py burning:doze                        # sleeps 2 ms, so it shows the structure on a busy machine too
"""

import argparse
import hashlib
import json
import statistics
import time
from typing import Any

import torch
from teamcredit.envs.asynchronous import Asynchronous
from teamcredit.envs.base import Step
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import POLICY, Clock, copy_seeds
from teamcredit.envs.registry import make
from teamcredit.marl.bench.machine import describe, sentence
from teamcredit.marl.exploration import uniform_policy
from teamcredit.marl.run import configure, make_env
from teamcredit.marl.trainer import Trainer

TASKS = ("sisl/pursuit-v5", "butterfly/knights_archers_zombies-v11", "burning:burn", "mpe/simple_spread")


class Stepping:
    """Copies of a task that go on from turn to turn, all at once."""

    def __init__(self, task: str, copies: int, workers: int):
        self.env: PettingZooTeam = make(task, workers=workers)
        seeds = copy_seeds(1, copies)
        self.state, self.view = self.env.reset(seeds)
        self.clock, self.total = Clock.start(seeds), torch.zeros(copies, dtype=torch.float64)

    def turn(self, steps: int) -> float:
        """Wall seconds for `steps` env steps of every copy."""
        began = time.perf_counter()
        for _ in range(steps):
            self.state, step, self.view = self.env.step(self.state, uniform_policy(self.view.available, self.clock.key(POLICY)))
            self.total += step.reward
            self.clock = self.clock.tick(step.terminated | step.truncated)
        return time.perf_counter() - began

    def outcome(self) -> str:
        return digest([*self.env.dump(self.state).tensors.values(), self.total])


class Ready(Stepping):
    """The same, acting in half of the copies (those that are ready first) while the others compute."""

    def turn(self, steps: int) -> float:
        began = time.perf_counter()
        stepping, left = Asynchronous(self.env, self.state), torch.full_like(self.clock.step, steps)
        ready, available = torch.arange(len(left)), self.view.available
        while True:
            if len(ready):
                clock = Clock(self.clock.seed[ready], self.clock.episode[ready], self.clock.step[ready])
                stepping.send(ready, uniform_policy(available, clock.key(POLICY)))
            if not stepping.out:
                break
            ready, step, view = stepping.recv(min((len(left) + 1) // 2, stepping.out))
            self._note(ready, step)
            left[ready] -= 1
            self.view.available[ready] = view.available
            ready = ready[left[ready] > 0]
            available = self.view.available[ready]
        self.state = stepping.state()
        return time.perf_counter() - began

    def _note(self, ready: torch.Tensor, step: Step) -> None:
        done = step.terminated | step.truncated
        self.total[ready] += step.reward
        self.clock.episode[ready] += done.long()
        self.clock.step[ready] = torch.where(done, 0, self.clock.step[ready] + 1)


class Training:
    """A trainer that goes on from turn to turn."""

    def __init__(self, task: str, copies: int, workers: int):
        sizes = {"replay.num_envs": copies, "replay.rollout_steps": 16, "replay.minibatch_size": 4 * copies}
        config = configure(options={"task": task, "workers": workers, **sizes}, environ={}).config
        self.trainer = Trainer(config, make_env(config))
        self.env = self.trainer.env

    def turn(self, steps: int) -> float:
        """Wall seconds for as many rounds as hold `steps` env steps of every copy, at least one."""
        began = time.perf_counter()
        for _ in range(max(steps // self.trainer.config.replay.rollout_steps, 1)):
            self.trainer.round()
        return time.perf_counter() - began

    def outcome(self) -> str:
        return digest(list(self.trainer.networks.state_dict().values()))


def digest(tensors: list[torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def measure(kind: type[Stepping] | type[Training], task: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each number of workers, 0 first."""
    ways = {workers: kind(task, args.copies, workers) for workers in dict.fromkeys((0, *args.workers))}
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
        row: dict[str, Any] = {"task": task, "what": kind.__name__.lower(), "workers": workers, "copies": args.copies}
        row["steps_per_second"] = statistics.median(speed)
        row["to_serial"] = ratio(speed, speeds[0])
        row["to_one_worker"] = ratio(speed, speeds[1]) if 1 in speeds else None
        rows.append({**row, "equal": outcomes[workers] == outcomes[0]})
        ways[workers].env.close()
    return rows


def ratio(mine: list[float], other: list[float]) -> dict[str, float]:
    """Turn by turn."""
    ratios = [one / two for one, two in zip(mine, other, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def show(ratios: dict[str, float] | None) -> str:
    return "" if ratios is None else f"{ratios['median']:.2f} ({ratios['min']:.2f} to {ratios['max']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="wall seconds of one serial turn")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    header = describe(None)
    rows = [row for task in args.tasks for kind in (Stepping, Ready, Training) for row in measure(kind, task, args)]
    if args.json:
        print(json.dumps({"schema": 2, **header, "copies": args.copies, "turns": args.turns, "rows": rows}))
        return
    print(sentence(header))
    print(
        f"{args.copies} copies, {args.turns} interleaved turns of about {args.seconds:g} s; env steps per wall second, median (min to max)"
    )
    for row in rows:
        what = f"{row['task']:38} {row['what']:9} {row['workers']} workers  {row['steps_per_second']:8,.0f} env steps/s"
        equal = "equal" if row["equal"] else "DIFFERENT"
        print(f"{what}  to serial {show(row['to_serial']):20}  to one worker {show(row['to_one_worker']):20}  {equal}")


if __name__ == "__main__":
    main()
