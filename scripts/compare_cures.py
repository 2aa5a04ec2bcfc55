"""Does treating an agent found lazy in training help? Return and lazy agents at the end, with each cure and without one.

The task is one where laziness arises by learning: foraging with players of levels 2 and 1, time for about half of the food, and a cost of
0.1 for every failed load. The strong player soon lives on its own; the weak one, to whom most food is too heavy, learns to stay away from
it, though by foraging what it can lift it could add more than the margin (a scripted forager in its place does). Each agent has networks
of its own. All runs are watched alike and have the same env steps of training; only what follows a verdict differs. The watch may play
as much as it needs here (--watch.overhead 2), so that the budget decides nothing; what it played is printed.

The closing verdict is `judge_team`'s on seeds that no run has seen, with the scripted forager among those tried in an agent's place.
Intervals: 95% t over seeds; differences from no cure are paired by seed.

    python scripts/compare_cures.py --seeds 5 --out cures.jsonl
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from teamcredit.credit.classes import LAZY
from teamcredit.credit.intervals import t_quantile
from teamcredit.marl.evaluate import EVALUATION_SEEDS, play, seeds_from
from teamcredit.marl.folder import read_metrics
from teamcredit.marl.headroom import default_candidates
from teamcredit.marl.laziness import judge_team
from teamcredit.marl.policies import make_policy
from teamcredit.marl.references import make_reference
from teamcredit.marl.run import Run, train

TASK = "native/foraging-8x8-2p-4f-pen"
OPTIONS: dict[str, Any] = {
    "env.player_levels": [2, 1], "env.max_food_level": 2, "env.episode_limit": 20, "network.share": False, "network.hidden": 64,
    "replay.rollout_steps": 16, "replay.num_envs": 64, "replay.minibatch_size": 256, "replay.epochs": 2, "learner.target": "none",
    "learner.optimiser": "radam", "learner.lr": 2e-3, "learner.td_lambda": 0.8, "learner.gamma": 0.95, "exploration.fraction": 0.3,
    "evaluation.episodes": 64, "evaluation.final_episodes": 64, "compile": "off", "watch_credit": "evaluations", "watch.pairs": 32,
    "watch.max_pairs": 1536, "watch.overhead": 2.0,
}  # fmt: skip
ARMS = {"vdn": ("none", "transplant", "reset", "diligence"), "iql": ("none", "transplant", "reset", "counterfactual", "diligence")}


def one(algo: str, cure: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """One run: how it ended, and what happened on the way."""
    treated = {} if cure == "none" else {"watch.on_lazy": "intervene", "watch.cure": cure}
    options = OPTIONS | treated | {"evaluation.every": steps // 10}
    run = train(TASK, algo=algo, steps=steps, seed=seed, options=options, out=folder / f"{algo}-{cure}-{seed}")
    returns = play(run.env, run.team, seeds_from(EVALUATION_SEEDS, 1024)).returns
    lines = read_metrics(run.folder)
    return {
        "algo": algo, "cure": cure, "seed": seed, "env_steps": run.env_steps, "return": float(returns.mean()),
        "watch.env_steps": [line["watch.env_steps"] for line in lines if line["event"] == "credit"][-1],
        "told": [(line["event"], line["agent"], line["env_steps"]) for line in lines if line["event"] in ("lazy", "cure", "recovered")],
        **verdicts(run),
    }  # fmt: skip


def verdicts(run: Run) -> dict[str, Any]:
    """The closing verdict on each agent, and its effects."""
    env = run.env
    forager = make_policy("forager", env.spec, getattr(env, "scripted", {}))
    stands = [make_reference(name, run) for name in ("noop", "random")]
    report = judge_team(env, run.team, stands=stands, max_pairs=2048, candidates={**default_candidates(env, run.team), "forager": forager})
    return {
        "verdicts": [verdict.verdict for verdict in report.verdicts],
        "lazy": sum(verdict.verdict in LAZY for verdict in report.verdicts),
        "effects": [list(verdict.effect) for verdict in report.verdicts],
    }


def interval(values: list[float]) -> str:
    """Mean over seeds and half the width of its 95% t interval."""
    sample = torch.tensor(values, dtype=torch.float64)
    return f"{float(sample.mean()):.3f} +- {t_quantile(len(values) - 1) * float(sample.std()) / len(values) ** 0.5:.3f}"


def show(rows: list[dict[str, Any]]) -> str:
    """The table: a line per algorithm and cure."""
    lines = [f"{'':5}{'cure':<16}{'return':<18}{'minus no cure':<18}{'lazy agents':<13}{'weak one, noop':<18}{'treated':<9}watch"]
    for algo, arms in ARMS.items():
        base = {row["seed"]: row["return"] for row in rows if (row["algo"], row["cure"]) == (algo, "none")}
        for cure in arms:
            own = [row for row in rows if (row["algo"], row["cure"]) == (algo, cure)]
            if len(own) < 2:
                continue
            more = "" if cure == "none" else interval([row["return"] - base[row["seed"]] for row in own])
            treated = sum(any(event == "cure" for event, *_ in row["told"]) for row in own)
            lazy, effect = sum(row["lazy"] for row in own), interval([row["effects"][1][0] if row["effects"][1] else 0.0 for row in own])
            played = sum(row["watch.env_steps"] for row in own) / sum(row["env_steps"] for row in own)
            returns = interval([row["return"] for row in own])
            lines.append(
                f"{algo:<5}{cure:<16}{returns:<18}{more:<18}{f'{lazy} in {len(own)} runs':<13}{effect:<18}{treated:<9}{played:.0%}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=160_000)
    parser.add_argument("--algos", nargs="+", default=list(ARMS))
    parser.add_argument("--out", type=Path, default=None, help="a JSON line per run; those that are in it already are not made again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out is not None and args.out.exists() else []
    made = {(row["algo"], row["cure"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for algo in args.algos:
                for cure in ARMS[algo]:
                    if (algo, cure, seed) in made:
                        continue
                    rows.append(one(algo, cure, seed, args.steps, Path(folder)))
                    print(json.dumps(rows[-1]), flush=True)
                    if args.out is not None:
                        with args.out.open("a") as file:
                            file.write(json.dumps(rows[-1]) + "\n")
    print(show(rows))


if __name__ == "__main__":
    main()
