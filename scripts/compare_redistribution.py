"""Does reward redistribution help where rewards are late? none, rrd and rudder on the same env steps and seeds, and against the truth.

    python scripts/compare_redistribution.py chain key spread --seeds 5

Per task and method: the mean greedy return of the trained teams with its 95% t interval over seeds, and the wall time. Where the
truth is known (credit/chains.py), the Pearson correlation over steps of the redistributed reward with sum_i C[t, i] (reference random),
per episode, averaged over episodes and seeds: of the model that trained the run, and of models fitted afterwards to the run trained
without redistribution. Truth of key and door exists for teams that open the door: the others are left out and counted.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import torch
from teamcredit.credit.chains import delayed_chain, key_and_door
from teamcredit.credit.intervals import t_interval
from teamcredit.envs.delayed_chain import DelayedChain
from teamcredit.envs.key_and_door import KeyAndDoor
from teamcredit.marl.evaluate import CREDIT_SEEDS, seeds_from
from teamcredit.marl.run import Run, load, train
from teamcredit.marl.temporal_reading import measure_temporal, play_episodes
from torch import Tensor

EPISODES = 8
ROUND = {
    "replay.rollout_steps": 24, "replay.num_envs": 32, "replay.minibatch_size": 64, "replay.epochs": 4,
    "compile": "off", "evaluation.every": 1_000_000,
}  # fmt: skip
TASKS: dict[str, tuple[str, int, dict[str, object]]] = {
    "chain": ("native/delayed-chain", 20_000, {"preset": "pqn", **ROUND}),
    "long-chain": ("native/delayed-chain", 30_000, {"preset": "pqn", "env.steps": 24, **ROUND}),
    "key": ("native/key-and-door", 12_000, {"preset": "pqn", **ROUND}),
    "spread": (
        "native/spread", 64_000,
        {"preset": "spread", "delay_reward": True, **ROUND, "replay.rollout_steps": 25, "replay.minibatch_size": 200, "replay.epochs": 2},
    ),
}  # fmt: skip
METHODS = ("none", "rrd", "rudder")


def truth_of(run: Run) -> Tensor | None:
    """sum_i C[t, i] along each of the read episodes (time, episode); None where it is not known."""
    env = run.env
    played = play_episodes(env, run.team, seeds_from(CREDIT_SEEDS, EPISODES)).episodes
    if isinstance(env, DelayedChain):
        hits = played.action == env.targets.unsqueeze(1)
        each = [delayed_chain(env.weights, hits[:, k], num_actions=env.num_actions, reference="random").matrix for k in range(EPISODES)]
        return torch.stack(each, 1).sum(-1)
    if isinstance(env, KeyAndDoor) and bool((played.returns == 1).all()):
        return key_and_door("random").matrix.sum(1, keepdim=True).expand(-1, EPISODES)
    return None


def agreement(rewards: Tensor, truth: Tensor) -> float:
    """Mean over episodes of the Pearson correlation over steps; NaN where no episode's rewards and truth both vary."""
    a, b = rewards - rewards.mean(0), truth - truth.mean(0)
    return float(((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))).nanmean())


def interval(values: list[float]) -> str:
    """mean [low, high] by t over the values that exist, and how many."""
    real = torch.tensor([value for value in values if not math.isnan(value)], dtype=torch.float64)
    if len(real) == 0:
        return "none"
    if len(real) == 1:
        return f"{float(real):.3f} (1)"
    low, high = t_interval(real)
    return f"{float(real.mean()):.3f} [{float(low):.3f}, {float(high):.3f}] ({len(real)})"


def compare(name: str, methods: list[str], seeds: int, root: Path, steps: int | None, options: dict[str, object]) -> None:
    task, default_steps, own = TASKS[name]
    chosen = {**own, **options}
    preset, algo = str(chosen.pop("preset")), str(chosen.pop("algo", "vdn"))
    steps = steps or default_steps
    print(f"{name}: {task}, {algo}, {steps:,} env steps, {seeds} seeds, preset {preset}, {json.dumps(chosen)}", flush=True)
    for method in methods:
        returns, own_agreement, fitted, seconds = [], [], {"rrd": [], "rudder": []}, 0.0
        for seed in range(seeds):
            began = time.monotonic()
            out = root / f"{name}-{method}-{seed}"
            run = load(
                train(task, algo=algo, preset=preset, steps=steps, seed=seed, out=out, options={"reward_redistribution": method, **chosen})
            )
            seconds += time.monotonic() - began
            returns.append(json.loads((out / "result.json").read_text())["return"]["mean"])
            truth = truth_of(run)
            if truth is None:
                continue
            if method != "none":
                own_agreement.append(agreement(measure_temporal(run, episodes=EPISODES).rewards, truth))
            elif seed < 3:
                for model, found in fitted.items():
                    found.append(agreement(measure_temporal(run, episodes=EPISODES, model=model, fit_episodes=1_000).rewards, truth))
        print(
            f"  {method:7} return {interval(returns)}  each {[round(value, 3) for value in returns]}  {seconds / seeds:.0f} s a run",
            flush=True,
        )
        if own_agreement:
            print(f"          Pearson with the truth, the run's own model: {interval(own_agreement)}", flush=True)
        for model, found in fitted.items():
            if found:
                print(f"          Pearson with the truth, {model} fitted afterwards: {interval(found)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--options", type=json.loads, default={}, help='JSON of dotted keys, such as {"redistribution.subset": 4}')
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.tasks:
            compare(name, chosen.methods, chosen.seeds, Path(folder), chosen.steps, chosen.options)


if __name__ == "__main__":
    main()
