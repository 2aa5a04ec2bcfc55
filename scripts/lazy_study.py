"""What the laziness verdicts say of teams that were really trained: three tasks, VDN, QMIX and no mixer (IQL), five seeds each.

    spread         three agents share three landmarks; nobody can be in two places
    coop           foraging where every food needs both players: all are needed
    strong         foraging with levels 3, 1 and 1, and no food above 3, each with networks of its own: the strong player can lift all of it
                   alone, the weak ones together all below level 3
    mpe            MPE2's own simple_spread; only where asked for, since a Python environment is slow

Every run is judged by `find_lazy` at each margin, with its teammates' policies, random and two older checkpoints tried in an agent's
place. Tables: returns with 95% t intervals over seeds, agents by class, pairs and env steps of the judgement.

    python scripts/lazy_study.py --seeds 5 --out lazy.jsonl --runs lazy-runs
    python scripts/lazy_study.py --tasks mpe --seeds 1 --out lazy.jsonl --runs lazy-runs
    python scripts/lazy_study.py --out lazy.jsonl --runs lazy-runs --tasks strong --again random peer:agent_2
    python scripts/check_verdict.py lazy-runs/coop-vdn-0 agent_1
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from teamcredit.credit.classes import CLASSES
from teamcredit.credit.intervals import t_interval
from teamcredit.marl.errors import UserError
from teamcredit.marl.evaluate import EVALUATION_SEEDS, play, seeds_from
from teamcredit.marl.laziness import find_lazy
from teamcredit.marl.run import Run, load, train

STRONG: dict[str, Any] = {"env.player_levels": [3, 1, 1], "env.max_food_level": 3, "network.share": False, "network.hidden": 64}
TASKS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "spread": ("native/spread", 800_000, {}),
    "coop": ("native/foraging-8x8-2p-2f-coop", 500_000, {}),
    "strong": ("native/foraging-8x8-3p-3f", 300_000, STRONG),
    "mpe": ("mpe/simple_spread", 100_000, {}),
}
"""name -> (task, env steps of training, options); the rest is the task's own preset."""
DEFAULT_TASKS = ("spread", "coop", "strong")
ALGOS = ("vdn", "qmix", "iql")
MARGINS = (0.25, 0.1)
REFERENCES = ("noop", "random")
MAX_PAIRS = 2048
REFUSED = "team did not beat its reference"


def one(name: str, algo: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run: how well it plays, and what is said of its agents at each margin."""
    task, steps, options = TASKS[name]
    began = time.monotonic()
    # Quarters of the run are kept, since older checkpoints are tried in an agent's place.
    run = train(task, algo=algo, steps=steps, seed=seed, options={"evaluation.every": steps // 4, "compile": "on", **options}, out=folder)
    trained = time.monotonic()
    returns = play(run.env, run.team, seeds_from(EVALUATION_SEEDS, 128 if name == "mpe" else 1024)).returns
    judged = {str(margin): judge(run, margin) for margin in MARGINS}
    return {
        "task": name, "algo": algo, "seed": seed, "run": folder.name, "env_steps": run.env_steps, "return": float(returns.mean()),
        "training_seconds": trained - began, "judging_seconds": time.monotonic() - trained, "judged": judged,
    }  # fmt: skip


def judge(run: Run, margin: float, references: Sequence[str] = REFERENCES) -> dict[str, Any]:
    """The verdicts at one margin."""
    report = find_lazy(run, margin=margin, references=references, max_pairs=512 if "mpe" in run.env.spec.name else MAX_PAIRS)
    return {
        "problem": report.margin.problem,
        "gain": report.margin.gain.tolist(),
        "delta": report.margin.delta.tolist(),
        "env_steps": report.env_steps,
        "agents": [
            {
                "verdict": verdict.verdict, "pairs": verdict.episodes, "effect": verdict.effect, "effort": verdict.effort,
                "look": None if verdict.look is None else asdict(verdict.look),
            }
            for verdict in report.verdicts
        ],
    }  # fmt: skip


def classes_of(judged: dict[str, Any]) -> list[str]:
    """One word per agent; REFUSED for all where the team was not judged."""
    return [REFUSED if judged["problem"] is not None else agent["verdict"] for agent in judged["agents"]]


def mean_and_half_width(values: Sequence[float]) -> str:
    """Mean over seeds and half the width of its 95% t interval; the mean alone for one seed."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    low, high = t_interval(torch.tensor(values, dtype=torch.float64))
    return f"{statistics.fmean(values):.3f} +- {float(high - low) / 2:.3f}"


def table(rows: Sequence[dict[str, Any]], margin: float) -> str:
    """A line per task and algorithm; classes that nobody is in have no column."""
    found = {(row["task"], row["algo"]) for row in rows}
    said = Counter(word for row in rows for word in classes_of(row["judged"][str(margin)]))
    words = [word for word in (*CLASSES, REFUSED) if said[word]]
    lines = [["task", "algo", "seeds", "return", *words, "pairs a verdict", "env steps a judgement"]]
    for task, algo in ((task, algo) for task in TASKS for algo in ALGOS if (task, algo) in found):
        own = [row for row in rows if (row["task"], row["algo"]) == (task, algo)]
        judged = [row["judged"][str(margin)] for row in own]
        count = Counter(word for one in judged for word in classes_of(one))
        pairs = [agent["pairs"] for one in judged if one["problem"] is None for agent in one["agents"]]
        lines.append([
            task, algo, str(len(own)), mean_and_half_width([row["return"] for row in own]), *(str(count[word]) for word in words),
            f"{statistics.median(pairs):.0f}" if pairs else "-", f"{statistics.median(one['env_steps'] for one in judged):,.0f}",
        ])  # fmt: skip
    text = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([text[0], "|" + " --- |" * len(lines[0]), *text[1:]])


def closer(rows: Sequence[dict[str, Any]], margin: float) -> str:
    """A line for every agent that does not simply contribute: what was seen of it."""
    lines = []
    for row in rows:
        judged = row["judged"][str(margin)]
        if judged["problem"] is not None:
            lines.append(f"{row['run']}: {judged['problem']}")
            continue
        for number, agent in enumerate(judged["agents"]):
            if agent["verdict"] == "contributing":
                continue
            look = agent["look"]
            effects = ", ".join(f"{effect:+.3f}" for effect in agent["effect"])
            effects += f" (margins {', '.join(f'{least:.3f}' for least in judged['delta'])})"
            more = "" if look is None else f"; room {look['room']}, {look['stand_in']} {look['headroom']:+.3f}"
            stands = "" if look is None or not look["substitutes"] else f"; stand in for it: {', '.join(look['substitutes'])}"
            lines.append(f"{row['run']} agent_{number}: {agent['verdict']}, {agent['pairs']} pairs; {effects}{more}{stands}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(DEFAULT_TASKS))
    parser.add_argument("--algos", nargs="+", choices=ALGOS, default=list(ALGOS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="a JSON line per run; those that are in it already are not made again")
    parser.add_argument("--runs", type=Path, default=None, help="where the run folders stay; default: nowhere")
    parser.add_argument("--again", nargs="+", metavar="REFERENCE", help="train nothing: judge the runs of --out by these references")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: at least 1")
    if args.again and (args.out is None or args.runs is None or not args.out.exists()):
        parser.error("--again judges runs that were made before: name their --out, which must exist, and their --runs")
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out is not None and args.out.exists() else []
    made = {(row["task"], row["algo"], row["seed"]) for row in rows}
    if args.again:
        rows = [row for row in rows if row["task"] in args.tasks and row["algo"] in args.algos and row["seed"] < args.seeds]
        try:
            for row in rows:
                run = load(str(args.runs / row["run"]))
                row["judged"] = {str(margin): judge(run, margin, args.again) for margin in MARGINS}
        except UserError as error:  # no such run, no such reference
            raise SystemExit(str(error)) from error
        tell(rows)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(args.seeds):
            for name, algo in ((name, algo) for name in args.tasks for algo in args.algos):
                if (name, algo, seed) in made:
                    continue
                rows.append(one(name, algo, seed, (args.runs or Path(scratch)) / f"{name}-{algo}-{seed}"))
                print(json.dumps(rows[-1]), flush=True)
                if args.out is not None:
                    with args.out.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    tell(rows)


def tell(rows: Sequence[dict[str, Any]]) -> None:
    """Both tables, and who does not simply contribute."""
    for margin in MARGINS:
        print(f"\nmargin {margin}\n\n{table(rows, margin)}\n\n{closer(rows, margin)}")


if __name__ == "__main__":
    main()
