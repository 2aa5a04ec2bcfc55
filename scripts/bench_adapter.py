"""What the adapter costs: CPU microseconds of a team step per copy beside the bare `ParallelEnv.step` with the same actions.

The same episodes are played twice, in environments of their own: once through the team (which reads, checks, pads and starts
the next episode), once by calling `step` and `reset` alone; the two take turns after every env step of all copies, so that what
else the machine does falls on both. One turn gives one difference and its share of the team's step; medians, lowest and
highest of the turns are printed. The task's global `state()`, which only the team asks for, counts as the adapter's; the time
inside it is printed apart. `none` is an environment without any work of its own. A task is made as training makes it: with the
options of its own preset (pistonball: SuperSuit's smaller grey images), unless --bare asks for it as it comes.

    python scripts/bench_adapter.py                         # spread, lbf, KAZ, pursuit, pistonball, burning, none
    python scripts/bench_adapter.py mpe/simple_spread --copies 1 8 64
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import POLICY, Clock, copy_seeds, mix_seed
from teamcredit.envs.registry import make
from teamcredit.marl.bench.machine import describe, sentence
from teamcredit.marl.exploration import uniform_policy
from teamcredit.marl.run import configure

TASKS = (
    "none", "mpe/simple_spread", "lbf/8x8-2p-3f", "butterfly/knights_archers_zombies-v11", "burning:burn", "sisl/pursuit-v5",
    "butterfly/pistonball-v6",
)  # fmt: skip


class Stopwatch:
    """CPU seconds spent in what is called through it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        began = time.process_time()
        result = function(*args)
        self.seconds += time.process_time() - began
        return result


class Pair:
    """The same copies as a team and as bare environments."""

    def __init__(self, task: str, copies: int, *, preset: bool):
        options: dict[str, Any] = (
            {"milliseconds": 0.0} if task == "none" else configure(options={"task": task}, environ={}).config.env if preset else {}
        )
        self.env: PettingZooTeam = make("burning:doze" if task == "none" else task, **options)
        self.plans, self.agents = self.env.here.layout.action_plans, self.env.here.layout.agents
        self.maker = self.env.maker
        self.bare = [self.maker() for _ in range(copies)]
        self.seeds = copy_seeds(1, copies)
        self.state_time = Stopwatch()
        if self.env.here.layout.state_shape is not None:
            self._watch_states()

    def _watch_states(self) -> None:
        """Time `state()` of the environments that the team makes from now on."""
        maker = self.env.here.maker

        def watched() -> Any:
            env = maker()
            inner = env.state
            env.state = lambda: self.state_time(inner)
            return env

        self.env.here.maker = watched

    def turn(self, steps: int, number: int) -> dict[str, float]:
        """Microseconds per copy and env step: the bare step, what the adapter adds, and how much of that is `state()`."""
        team, bare, self.state_time = Stopwatch(), Stopwatch(), Stopwatch()
        seeds = self.seeds + number
        state, view = self.env.reset(seeds)
        clock = Clock.start(seeds)
        self._restart(range(len(seeds)), clock)
        self.state_time.seconds = 0.0
        for _ in range(steps):
            action = uniform_policy(view.available, clock.key(POLICY))
            joints = self._decoded(action, view.alive)
            state, step, view = team(self.env.step, state, action)
            bare(self._step_bare, joints)
            done = step.terminated | step.truncated
            clock = clock.tick(done)
            if done.any():
                bare(self._restart, done.nonzero().squeeze(-1).tolist(), clock)
        each = 1e6 / steps / len(seeds)
        return {"bare": bare.seconds * each, "adapter": (team.seconds - bare.seconds) * each, "state": self.state_time.seconds * each}

    def _decoded(self, action: torch.Tensor, alive: torch.Tensor) -> list[dict[str, Any]]:
        return [
            {self.agents[i]: self.plans[i].decode(choice) for i, (choice, lives) in enumerate(zip(row, living, strict=True)) if lives}
            for row, living in zip(action.tolist(), alive.tolist(), strict=True)
        ]

    def _step_bare(self, joints: list[dict[str, Any]]) -> None:
        for env, joint in zip(self.bare, joints, strict=True):
            env.step(joint)

    def _restart(self, rows: Any, clock: Clock) -> None:
        for i in rows:
            if not self.env.here.reuse:
                self.bare[i] = self.maker()
            self.bare[i].reset(seed=mix_seed(int(clock.seed[i]), int(clock.episode[i])))


def measure(task: str, copies: int, args: argparse.Namespace) -> dict[str, Any]:
    pair = Pair(task, copies, preset=not args.bare)
    pair.turn(5, 0)
    one = pair.turn(20, 0)
    steps = max(10, int(args.seconds * 1e6 / (2 * one["bare"] + one["adapter"]) / copies))
    turns = [pair.turn(steps, number) for number in range(args.turns)]
    pair.env.close()
    share = [turn["adapter"] / (turn["bare"] + turn["adapter"]) for turn in turns]
    columns = {name: [turn[name] for turn in turns] for name in ("bare", "adapter", "state")} | {"share": share}
    spread = {name: {"median": statistics.median(column), "min": min(column), "max": max(column)} for name, column in columns.items()}
    return {"task": task, "copies": copies, "agents": len(pair.agents), "turns": len(turns), "steps": steps, **spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--copies", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds of one turn")
    parser.add_argument("--bare", action="store_true", help="without the options of the tasks' presets")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    header = describe(None)
    rows = [measure(task, copies, args) for task in args.tasks for copies in args.copies]
    if args.json:
        print(json.dumps({"schema": 1, **header, "rows": rows}))
        return
    print(sentence(header))
    print(f"CPU microseconds per copy and env step, median (lowest to highest) of {args.turns} turns")
    for row in rows:
        adapter, share = row["adapter"], row["share"]
        cost = (
            f"adapter {adapter['median']:6.1f} ({adapter['min']:.1f} to {adapter['max']:.1f}), of it state() {row['state']['median']:.1f}"
        )
        what = f"{row['task']:38} {row['agents']:2} agents, {row['copies']:2} copies  bare {row['bare']['median']:8.1f}"
        print(f"{what}  {cost}  share {share['median']:.1%} ({share['min']:.1%} to {share['max']:.1%})")


if __name__ == "__main__":
    main()
