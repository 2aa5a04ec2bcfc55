"""Do independent learners learn better from their own credit? iql paid the team's reward, difference rewards and Shapley rewards.

Same task, preset, seeds and env steps for all; what is compared is the greedy team's return (raw team reward) over the same episodes,
as the mean of the seeds with a t interval over them, and the CPU seconds of training, extra copies included. All seeds of a setting
train together (marl/seeds.py). A task whose actions change no reward of their own step (spread) is refused, and so printed.

    python scripts/compare_agent_reward.py --seeds 5
"""

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import torch
from teamcredit.credit.intervals import t_interval
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.evaluate import EVALUATION_SEEDS, play, seeds_from
from teamcredit.marl.presets import own_preset
from teamcredit.marl.run import configure, make_env
from teamcredit.marl.seeds import Together

KINDS = ("team", "difference", "shapley")
TASKS: dict[str, dict[str, Any]] = {
    "native/foraging-5x5-3p-2f": {
        "steps": 60_000, "network.hidden": 64, "network.layers": 2, "exploration.fraction": 0.5, "replay.minibatch_size": 512,
    },
    "native/foraging-8x8-3p-3f": {
        "steps": 100_000, "network.hidden": 64, "network.layers": 2, "exploration.fraction": 0.5, "replay.minibatch_size": 512,
    },
    "native/coalition-harmful": {"steps": 4_096},
    "native/coalition-airport-6": {"steps": 4_096},
    "native/spread": {"steps": 100_000},
}  # fmt: skip
COMMON: dict[str, Any] = {"algo": "iql", "compile": "off"}
SETTINGS: dict[str, dict[str, Any]] = {"as it is": {}, "standardised": {"learner.standardise_rewards": True}}
"""Own credit may be many times smaller than the team's reward: the second setting divides either by its running deviation."""


def train(task: str, kind: str, setting: str, seeds: int, episodes: int) -> dict[str, Any]:
    """Mean greedy return of each seed, and what training took."""
    options = {"task": task, "agent_reward": kind, **COMMON, **TASKS[task], **SETTINGS[setting]}
    row: dict[str, Any] = {"task": task, "paid": kind, "setting": setting}
    config = configure(preset=own_preset(task), options=options, environ={}).config
    env = make_env(config)
    began = time.process_time()
    try:
        together = Together([replace(config, seed=seed) for seed in range(seeds)], env)
    except ConfigError as error:
        return row | {"refused": str(error)}
    while not together.finished:
        together.round()
    for trainer in together.trainers:
        trainer.settle()
    row |= {"cpu": time.process_time() - began, "env_steps": together.lead.counters.env_steps}
    lines = [trainer.metrics() for trainer in together.trainers]
    if kind != "team":
        row["pay"] = sum(line["agent_reward_size"] for line in lines) / len(lines)
    of_seed = [play(env, trainer.team, seeds_from(EVALUATION_SEEDS, episodes)).returns.mean() for trainer in together.trainers]
    return row | {"returns": [float(value) for value in of_seed]}


def interval(values: list[float]) -> tuple[float, float]:
    """The mean over seeds and half the width of its 95% t interval."""
    sample = torch.tensor(values, dtype=torch.float64)
    low, high = t_interval(sample)
    return float(sample.mean()), float(high - low) / 2


def show(row: dict[str, Any]) -> str:
    """One row for people."""
    head = f"{row['task']:<28} {row['setting']:<13} {row['paid']:<11}"
    if "refused" in row:
        return f"{head} refused: {row['refused']}"
    mean, half = interval(row["returns"])
    each = " ".join(f"{value:.3f}" for value in row["returns"])
    pay = f"  mean |pay| {row['pay']:.4f}" if "pay" in row else ""
    return f"{head} {mean:7.3f} +- {half:.3f}   ({each})  {row['env_steps']:,} env steps a seed, {row['cpu']:.0f} CPU s for all{pay}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS))
    parser.add_argument("--paid", nargs="+", default=list(KINDS))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for task in args.tasks:
        for setting in args.settings:
            for kind in args.paid:
                row = train(task, kind, setting, args.seeds, args.episodes)
                print(json.dumps(row) if args.json else show(row), flush=True)


if __name__ == "__main__":
    main()
