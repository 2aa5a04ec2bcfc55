"""Does treating an agent found lazy in training help? Return and lazy agents at the end, with each cure and without one.

Two tasks where laziness arises by learning; each agent has networks of its own:

    trap        native/uphill-3p, built for the purpose: a push costs, only the top pays, and there is little time to explore. An agent
                that has not learned the way up by then rests, while the team is paid for what its teammates bring up, and hardly meets
                the top again. Most seeds have a lazy agent, early and most for good.
    foraging    players of levels 2 and 1, time for about half of the food, and a cost of 0.1 for every failed load. The strong player
                soon lives on its own; the weak one, to whom most food is too heavy, learns to stay away from it, though by foraging what
                it can lift it could add more than the margin (a scripted forager in its place does). Few seeds have a lazy agent.

All runs are watched alike and have the same env steps of training; only what follows a verdict differs. The watch may play as much as it
needs here (--watch.overhead 2, and 5 on the trap, where the tests come early), so that the budget decides little; what it played is
printed. The trap's settings and those of the cures were chosen on seeds from 100 on.

The closing verdict is `judge_team`'s on seeds that no run has seen, with the scripted policy among those tried in an agent's place.
Intervals: 95% t over seeds; differences from no cure are paired by seed.

    python scripts/compare_cures.py --out cures.jsonl
    python scripts/compare_cures.py --task foraging --seeds 5 --out foraging.jsonl
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from teamcredit.credit.classes import LAZY
from teamcredit.credit.intervals import t_interval
from teamcredit.envs.randomness import Clock
from teamcredit.envs.uphill import Uphill
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.evaluate import EVALUATION_SEEDS, play, seeds_from
from teamcredit.marl.folder import read_metrics
from teamcredit.marl.headroom import default_candidates
from teamcredit.marl.laziness import judge_team
from teamcredit.marl.policies import make_policy, team_action
from teamcredit.marl.references import make_reference
from teamcredit.marl.run import Run, train

OPTIONS: dict[str, Any] = {
    "network.share": False, "network.hidden": 64, "replay.rollout_steps": 16, "replay.num_envs": 64, "replay.minibatch_size": 256,
    "replay.epochs": 2, "learner.target": "none", "learner.optimiser": "radam", "learner.td_lambda": 0.8, "learner.gamma": 0.95,
    "evaluation.episodes": 64, "evaluation.final_episodes": 64, "compile": "off", "watch_credit": "evaluations", "watch.pairs": 32,
    "watch.max_pairs": 1536, "watch.overhead": 2.0,
}  # fmt: skip
ARMS = {
    "vdn": ("none", "transplant", "reset", "diligence"),
    "iql": ("none", "transplant", "reset", "counterfactual", "diligence"),
    "qmix": ("none", "transplant", "reset", "diligence"),
}


@dataclass(frozen=True)
class Study:
    """A task and how it is learned."""

    task: str
    options: dict[str, Any]
    steps: int
    looks: int
    """Evaluations, and so looks, of a run."""
    scripted: str
    """The policy that shows what an agent could do."""
    seeds: int
    algos: tuple[str, ...]


STUDIES = {
    "trap": Study(
        "native/uphill-3p", {"learner.lr": 1e-3, "learner.lr_decay": "linear", "exploration.fraction": 0.1, "watch.overhead": 5.0},
        60_000, 20, "pusher", 10, ("vdn", "iql", "qmix"),
    ),
    "foraging": Study(
        "native/foraging-8x8-2p-4f-pen",
        {
            "env.player_levels": [2, 1], "env.max_food_level": 2, "env.episode_limit": 20, "learner.lr": 2e-3,
            "exploration.fraction": 0.3,
        },
        160_000, 10, "forager", 5, ("vdn", "iql"),
    ),
}  # fmt: skip


def one(study: Study, algo: str, cure: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """One run: how it ended, and what happened on the way."""
    treated = {} if cure == "none" else {"watch.on_lazy": "intervene", "watch.cure": cure}
    options = OPTIONS | study.options | treated | {"evaluation.every": steps // study.looks}
    run = train(study.task, algo=algo, steps=steps, seed=seed, options=options, out=folder / f"{algo}-{cure}-{seed}")
    returns = play(run.env, run.team, seeds_from(EVALUATION_SEEDS, 1024)).returns
    lines = read_metrics(run.folder)
    return {
        "task": study.task, "algo": algo, "cure": cure, "seed": seed, "env_steps": run.env_steps, "return": float(returns.mean()),
        "watch.env_steps": [line["watch.env_steps"] for line in lines if line["event"] == "credit"][-1],
        "told": [(what, line["agent"], line["env_steps"]) for line in lines if (what := happened(line)) is not None],
        "curve": [(line["env_steps"], line["return"]) for line in lines if line["event"] == "evaluation"],
        "idle": idle(run), **verdicts(run, study.scripted),
    }  # fmt: skip


def happened(line: dict[str, Any]) -> str | None:
    """What a line of metrics tells about an agent; a record of a cure may say that nothing is done."""
    if line["event"] == "cure":
        return "cure" if "is treated with" in line["text"] else "no cure"
    return line["event"] if line["event"] in ("lazy", "recovered") else None


def verdicts(run: Run, scripted: str) -> dict[str, Any]:
    """The closing verdict on each agent, and its effects."""
    env = run.env
    capable = make_policy(scripted, env.spec, getattr(env, "scripted", {}))
    stands = [make_reference(name, run) for name in ("noop", "random")]
    candidates = {**default_candidates(env, run.team), scripted: capable}
    try:
        report = judge_team(env, run.team, stands=stands, max_pairs=2048, candidates=candidates)
    except ConfigError as error:  # a team that does nothing at all cannot be judged
        return {"verdicts": [], "lazy": 0, "effects": [[] for _ in env.spec.agents], "not judged": str(error)}
    return {
        "verdicts": [verdict.verdict for verdict in report.verdicts],
        "lazy": sum(verdict.verdict in LAZY for verdict in report.verdicts),
        "effects": [list(verdict.effect) for verdict in report.verdicts],
    }


def idle(run: Run) -> int | None:
    """How many stones the greedy team leaves below the top, exactly: nothing there is drawn. None on another task."""
    env, team, seeds = run.env, run.team, torch.tensor([0])
    if not isinstance(env, Uphill):
        return None
    state, view = env.reset(seeds)
    clock, memory = Clock.start(seeds), team.utility.initial_memory(1)
    for _ in range(env.steps):
        action, memory = team_action(team, view, memory, clock)
        state, _, view = env.step(state, action, autoreset=False)
        clock = clock.tick()
    return int((state.task.height < env.height).sum())


def interval(values: list[float]) -> str:
    """Mean over seeds and half the width of its 95% t interval."""
    sample = torch.tensor(values, dtype=torch.float64)
    low, high = t_interval(sample)
    return f"{float(sample.mean()):.3f} +- {float(high - low) / 2:.3f}"


def show(rows: list[dict[str, Any]]) -> str:
    """The table: a line per algorithm and cure. "first" is the median env step of a run's first treatment.

    "idle": stones that are not brought up, in all runs; on foraging, what the weak player adds to one that does nothing.
    """
    is_trap = rows[0].get("idle") is not None
    head = (
        "cure",
        "return",
        "minus no cure",
        "lazy agents",
        "idle" if is_trap else "weak one, noop",
        "treated",
        "first",
        "recovered",
        "watch",
    )
    lines = [" " * 5 + "".join(f"{name:<{width}}" for name, width in zip(head, _WIDTHS, strict=True))]
    for algo, arms in ARMS.items():
        base = {row["seed"]: row["return"] for row in rows if (row["algo"], row["cure"]) == (algo, "none")}
        for cure in arms:
            own = [row for row in rows if (row["algo"], row["cure"]) == (algo, cure)]
            if len(own) < 2:
                continue
            both = [row["return"] - base[row["seed"]] for row in own if row["seed"] in base]
            began = [first for row in own if (first := first_treatment(row)) is not None]
            cells = (
                cure,
                interval([row["return"] for row in own]),
                "" if cure == "none" or len(both) < 2 else interval(both),
                f"{sum(row['lazy'] for row in own)} in {len(own)} runs",
                str(sum(row["idle"] for row in own))
                if is_trap
                else interval([row["effects"][1][0] if row["effects"][1] else 0.0 for row in own]),
                str(len(began)),
                f"{statistics.median(began):,.0f}" if began else "",
                str(sum(event == "recovered" for row in own for event, *_ in row["told"])),
                f"{sum(row['watch.env_steps'] for row in own) / sum(row['env_steps'] for row in own):.0%}",
            )
            lines.append(f"{algo:<5}" + "".join(f"{cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)))
    return "\n".join(lines)


_WIDTHS = (16, 18, 18, 16, 18, 9, 9, 11, 5)


def first_treatment(row: dict[str, Any]) -> int | None:
    """Env steps at which a run first treated anybody."""
    return next((env_steps for event, _, env_steps in row["told"] if event == "cure"), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(STUDIES), default="trap")
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--algos", nargs="+", choices=list(ARMS), default=None)
    parser.add_argument("--cures", nargs="+", choices=list(dict.fromkeys(cure for arms in ARMS.values() for cure in arms)), default=None)
    parser.add_argument("--out", type=Path, default=None, help="a JSON line per run; those that are in it already are not made again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = STUDIES[args.task]
    seeds, steps = (given if given is not None else usual for given, usual in ((args.seeds, study.seeds), (args.steps, study.steps)))
    if seeds < 1 or steps < study.looks:
        parser.error(f"--seeds {seeds} must be at least 1, and --steps {steps} at least {study.looks}, one for each evaluation")
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out is not None and args.out.exists() else []
    if any(row.get("task", study.task) != study.task for row in rows):
        parser.error(f"--out {args.out} holds runs of another task than {study.task}: name another file")
    made = {(row["algo"], row["cure"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.first_seed, args.first_seed + seeds):
            for algo in args.algos or study.algos:
                for cure in ARMS[algo]:
                    if (algo, cure, seed) in made or (args.cures and cure not in args.cures):
                        continue
                    rows.append(one(study, algo, cure, seed, steps, Path(folder)))
                    print(json.dumps(rows[-1]), flush=True)
                    if args.out is not None:
                        with args.out.open("a") as file:
                            file.write(json.dumps(rows[-1]) + "\n")
    if not rows:
        parser.error(
            "none of these --algos has one of these --cures: there are " + "; ".join(f"{a}: {', '.join(c)}" for a, c in ARMS.items())
        )
    print(show(rows))


if __name__ == "__main__":
    main()
