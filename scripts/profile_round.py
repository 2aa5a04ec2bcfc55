"""Where one round of training goes: plain loop beside captured, part by part; the floor; the recurrent unit's loops beside torch.

    python scripts/profile_round.py                 # preset spread, VDN
    python scripts/profile_round.py --peers         # JaxMARL's setting: GRU, 8 copies x 26 steps, one update of 32 windows

CPU milliseconds on one thread, the median over the turns; plain and captured rounds take turns in one process.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from bench_training import Stopwatch
from teamcredit.marl.allocator import keep_freed_memory
from teamcredit.marl.bench.updates import bare, products
from teamcredit.marl.kernels import find_compiler
from teamcredit.marl.recurrence import gru_layer, gru_layer_backward
from teamcredit.marl.run import configure, make_env
from teamcredit.marl.trainer import Trainer

PEERS: dict[str, Any] = {
    "network.kind": "gru", "network.hidden": 64, "network.layer_norm": False, "mixer.embed_dim": 32, "mixer.hyper_dim": 128,
    "replay.sampling": "uniform", "replay.window": 26, "replay.rollout_steps": 26, "replay.num_envs": 8, "replay.minibatch_size": 832,
    "replay.replay_ratio": 4.0, "replay.capacity": 130_000, "learner.lr": 5e-3, "learner.gamma": 0.9, "learner.lr_decay": "linear",
    "learner.grad_clip": 25.0, "learner.optimiser": "radam",
}  # fmt: skip


def make_trainer(algo: str, engine: str, *, peers: bool) -> Trainer:
    """A trainer past its first rounds (compiling, and the rounds in which captured calls are still checked)."""
    options = {"task": "native/spread", "algo": algo, "compile": engine, "steps": 10_000_000, **(PEERS if peers else {})}
    config = configure(preset="none" if peers else "spread", options=options, environ={}).config
    trainer = Trainer(config, make_env(config))
    for _ in range(15):
        trainer.round()
    return trainer


def median_time(call: Callable[[], Any], turns: int) -> float:
    """CPU milliseconds of one call."""
    spent = []
    for _ in range(turns):
        began = time.process_time()
        call()
        spent.append(1e3 * (time.process_time() - began))
    return statistics.median(spent)


def recurrent_unit(turns: int) -> None:
    """26 steps of 96 rows of 64, forward and backward."""
    x, grad, keep, start = torch.randn(1, 26, 96, 64), torch.randn(1, 26, 96, 64), torch.ones(1, 26, 96, 1), torch.zeros(1, 96, 64)
    weights = torch.randn(1, 192, 64) / 8, torch.randn(1, 192, 64) / 8
    biases = torch.randn(1, 192), torch.randn(1, 192)
    outputs = gru_layer(x, keep, start, *weights, *biases, False, True)
    for name, fast in (("torch", False), ("own loops", True)):
        forward = median_time(lambda fast=fast: gru_layer(x, keep, start, *weights, *biases, fast, True), turns)
        backward = median_time(lambda fast=fast: gru_layer_backward(grad, x, *outputs, keep, start, *weights, fast), turns)
        print(f"recurrent unit, {name:9}  forward {forward:.2f} ms, backward {backward:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="vdn")
    parser.add_argument("--peers", action="store_true", help="JaxMARL's setting")
    parser.add_argument("--turns", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    sides = {engine: make_trainer(arguments.algo, engine, peers=arguments.peers) for engine in ("off", "on")}
    captured: Any = sides["on"]._engine
    if captured is None:
        parser.exit(4, f"nothing was captured: {sides['on'].choice.reason}\n")
    watch = Stopwatch()
    for part in ("collect", "plan", "iterate"):
        watch.wrap(captured, part, part)
    spent: dict[str, list[float]] = defaultdict(list)
    for _ in range(arguments.turns):
        for engine, trainer in sides.items():
            began = time.process_time()
            trainer.round()
            spent[engine].append(1e3 * (time.process_time() - began))
    for engine, name in (("off", "plain"), ("on", "captured")):
        print(f"round, {name:9} {statistics.median(spent[engine]):6.1f} ms  ({min(spent[engine]):.1f} to {max(spent[engine]):.1f})")
    for part, seconds in watch.seconds.items():
        print(f"   {part:9} {1e3 * seconds / arguments.turns:6.1f} ms a round")
    floor = bare(products(sides["off"].round))
    print(f"its matrix products bare (without the recurrent unit's): {median_time(floor, arguments.turns):.1f} ms a round")
    if find_compiler() is not None:
        recurrent_unit(100)


if __name__ == "__main__":
    main()
