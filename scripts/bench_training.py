"""Env steps per second of training beside a bare loop of the same environment, and where the rest of the time goes.

The two are timed in turns (several rounds of each, interleaved), in one process, on one thread, in CPU seconds; the ratio's
median, lowest and highest over the turns are printed. The bare loop steps the same number of copies with uniform available actions.

    python scripts/bench_training.py                      # native/spread, mpe/simple_spread, lbf/8x8-2p-3f
    python scripts/bench_training.py native/spread --set num_envs=64
"""

import argparse
import json
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from teamcredit.envs.randomness import POLICY, Clock, copy_seeds
from teamcredit.marl.exploration import uniform_policy
from teamcredit.marl.run import configure, make_env
from teamcredit.marl.trainer import Trainer

SETTINGS: dict[str, dict[str, Any]] = {
    "native/spread": {"preset": "spread"},
    "native/foraging-8x8-2p-3f": {"preset": "foraging"},
    "mpe/simple_spread": {},
    "lbf/8x8-2p-3f": {},
}


class Stopwatch:
    """CPU seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds[part] += time.process_time() - began

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Time every call of a method."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.time(part):
                return inner(*args, **kwargs)

        setattr(owner, name, timed)


def bare_loop(env: Any, copies: int, steps: int) -> float:
    """CPU seconds of `steps` env steps in each copy under uniform available actions."""
    seeds = copy_seeds(1, copies)
    state, view = env.reset(seeds)
    clock = Clock.start(seeds)
    spent = 0.0
    for _ in range(steps):
        action = uniform_policy(view.available, clock.key(POLICY))  # not counted: the bare loop is the environment alone
        began = time.process_time()
        state, _, view = env.step(state, action)
        spent += time.process_time() - began
        clock = clock.tick()
    return spent


def measure(task: str, preset: str | None, options: dict[str, Any], turns: int, seconds: float) -> dict[str, Any]:
    """Interleaved turns of training and of the bare loop."""
    config = configure(preset=preset, options={"task": task, **options}, environ={}).config
    trainer, bare = Trainer(config, make_env(config)), make_env(config)
    batch, copies, rollout = config.replay.batch, config.replay.num_envs, config.replay.rollout_steps
    trainer.round()
    began = time.process_time()
    trainer.round()
    rounds = max(2, int(seconds / max(time.process_time() - began, 1e-4)))
    watch = Stopwatch()
    watch.wrap(trainer.env, "step", "environment")
    watch.wrap(trainer.replay, "add", "replay: add")
    watch.wrap(trainer.replay, "gather", "replay: sample")
    watch.wrap(trainer.learner, "loss", "learn: forward and targets")
    watch.wrap(trainer.learner, "prepare", "learn: forward and targets")
    watch.wrap(trainer.optimisers["agents"], "step", "learn: optimiser")
    watch.wrap(trainer.team.utility, "forward", "networks while acting")
    train_speed, bare_speed = [], []
    for _ in range(turns):
        began = time.process_time()
        for _ in range(rounds):
            trainer.round()
        train_speed.append(rounds * batch / (time.process_time() - began))
        bare_speed.append(rounds * batch / bare_loop(bare, copies, rounds * rollout))
    total = turns * rounds * batch / statistics.harmonic_mean(train_speed)
    parts = {name: value / total for name, value in watch.seconds.items()}
    parts["rest: backward, clipping, exploration, bookkeeping"] = 1 - sum(parts.values())
    ratios = [trained / alone for trained, alone in zip(train_speed, bare_speed, strict=True)]
    return {
        "task": task, "algo": config.algo, "copies": copies, "batch": batch, "minibatch": config.replay.minibatch_size,
        "train_steps_per_cpu_second": statistics.median(train_speed), "bare_steps_per_cpu_second": statistics.median(bare_speed),
        "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios), "parts": parts,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["native/spread", "mpe/simple_spread", "lbf/8x8-2p-3f"])
    parser.add_argument("--algo", default="qmix")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="options of the run")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds of training a turn")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = {"algo": args.algo, **dict(pair.split("=", 1) for pair in args.set)}
    rows = [measure(task, SETTINGS.get(task, {}).get("preset"), options, args.turns, args.seconds) for task in args.tasks]
    header = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": 1,
    }
    if args.json:
        print(json.dumps({"schema": 1, **header, "rows": rows}))
        return
    print(", ".join(f"{key} {value}" for key, value in header.items()))
    for row in rows:
        print(f"\n{row['task']}  {row['algo']}, {row['copies']} copies, batch {row['batch']}, minibatches of {row['minibatch']}")
        trained, alone = row["train_steps_per_cpu_second"], row["bare_steps_per_cpu_second"]
        print(f"  training {trained:,.0f} env steps per CPU second, bare loop {alone:,.0f}")
        print(f"  ratio {row['ratio']:.3f} (lowest {row['ratio_min']:.3f}, highest {row['ratio_max']:.3f} of {args.turns} turns)")
        for part, share in sorted(row["parts"].items(), key=lambda item: -item[1]):
            print(f"    {share:6.1%}  {part}")


if __name__ == "__main__":
    main()
