"""Which estimates of credit can be trusted on trained teams? Each against the simulator's Shapley values, over several runs.

    python scripts/compare_credit.py --out FOLDER [--tasks foraging delayed-chain plate-and-door] [--algos vdn qmix coma] [--seeds 0-4]

Trains the runs, measures every estimator on each under both references, and prints Markdown; FOLDER/table.json has all numbers. Runs
and measurements that are finished are not made again, so an interrupted study goes on where it was.

Truth: Shapley values by playing all coalitions on many episodes that no estimator sees. The measure is the rank correlation over the
agents of one run (Spearman; Pearson beside it), averaged over runs. Nothing can agree with a noisy truth better than it agrees with
itself, so that is printed too: the mean correlation of two random halves of the truth's episodes ("ceiling"). With four agents ranks at
random correlate by 0 with standard deviation .58 a run, .26 over five runs; with three agents .71 and .32.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from teamcredit.credit import shapley_from_values
from teamcredit.credit.base import all_coalitions
from teamcredit.credit.counterfactual import counterfactual_advantage
from teamcredit.credit.scores import spearman
from teamcredit.marl.critic_credit import CriticCredit
from teamcredit.marl.critic_episodes import record, valued_team
from teamcredit.marl.evaluate import CREDIT_SEEDS, play, seeds_from
from teamcredit.marl.inspection import episode_game, measure_credit, measure_effort
from teamcredit.marl.mixer_reading import How, measure_mixer_credit
from teamcredit.marl.run import Run, load, resume, train

TRUTH_SEEDS = 800_000_000
TARGET = 0.8
"""Mean rank correlation from which an estimator is called trusted."""
HALVINGS = 200
Values = torch.Tensor | None
"""One number per agent; None where the run has nothing to read."""


@dataclass(frozen=True)
class Study:
    """A task whose members truly differ."""

    task: str
    steps: int
    options: dict[str, Any]
    episodes: int
    """Of the truth."""
    preset: str | None = None
    """None: the task's own."""
    of_value_learners: dict[str, Any] = field(default_factory=dict)
    """More options for vdn and qmix."""


_SMALL_BATCHES = {"replay.num_envs": 16, "replay.rollout_steps": 16, "replay.minibatch_size": 128}
_CHAIN = [[weight * unit / 8 for weight in (3, 2, 1, 0)] for unit in (1, 2, 1, 2, 0, 2, 1, 2)]
STUDIES = {
    "foraging": Study("native/foraging-8x8-4p-3f", 500_000, {"env.player_levels": [1, 2, 3, 4]}, 512),
    "delayed-chain": Study("native/delayed-chain", 100_000, {"env.weights": _CHAIN}, 256),
    "plate-and-door": Study("native/plate-and-door", 60_000, _SMALL_BATCHES, 1024, "pqn", {"network.hidden": 64}),
    "spread": Study("native/spread", 300_000, {}, 1024),
}
"""Players of levels 1 to 4; agents worth 3 : 2 : 1 : 0, paid at the end; guard, walker, dummy; and three agents alike, as a control."""
ALGOS = ("vdn", "qmix", "coma")
REFERENCES = ("noop", "random")


def trained(name: str, algo: str, seed: int, out: Path) -> Run:
    """The run, trained now if it is not there, gone on with if it was interrupted. A value learner gets a critic beside its mixer."""
    study, folder = STUDIES[name], out / f"{name}-{algo}" / f"seed-{seed}"
    if (folder / "result.json").exists():
        return load(folder)
    if any((folder / "checkpoints").glob("*")):
        return resume(str(folder))
    own = {} if algo == "coma" else {"critic.kind": "mlp", "critic.target": "retrace", **study.of_value_learners}
    preset = f"{study.preset},coma" if study.preset and algo == "coma" else study.preset
    return train(study.task, algo=algo, steps=study.steps, seed=seed, preset=preset, options={**study.options, **own}, out=folder)


def truth_of(run: Run, reference: str, episodes: int) -> torch.Tensor:
    """Exact Shapley values of every episode, (agent, episode)."""
    agents = run.env.spec.num_agents
    game = episode_game(run.env, run.team, reference, first_seed=TRUTH_SEEDS)
    parts = [game.play(all_coalitions(agents), seeds_from(start, min(256, episodes - start))) for start in range(0, episodes, 256)]
    return shapley_from_values(torch.cat(parts, 1))


def pearson(first: torch.Tensor, second: torch.Tensor) -> float:
    """NaN where one side is the same for everybody."""
    a, b = first.double() - first.double().mean(), second.double() - second.double().mean()
    size = a.norm() * b.norm()
    return float(a @ b / size) if size > 1e-12 else math.nan


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Nine digits: what differs by rounding errors only is a tie."""
    return (values.double() * 1e9).round() / 1e9


def rank_correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return spearman(rounded(first), rounded(second))


def agreement_with_itself(per_episode: torch.Tensor) -> tuple[float, float]:
    """Mean Spearman and Pearson of two random halves of the truth's episodes."""
    generator, count = torch.Generator().manual_seed(0), per_episode.shape[1]
    found = []
    for _ in range(HALVINGS):
        order = torch.randperm(count, generator=generator)
        halves = per_episode[:, order[: count // 2]].mean(1), per_episode[:, order[count // 2 :]].mean(1)
        found.append([rank_correlation(*halves), pearson(*halves)])
    return tuple(torch.tensor(found, dtype=torch.float64).nanmean(0).tolist())  # pyright: ignore[reportReturnType]


def by_mixer(how: How) -> Callable[[Run, str, int], Values]:
    def measure(run: Run, reference: str, episodes: int) -> Values:
        if run.config.algo not in ("vdn", "qmix"):
            return None
        return measure_mixer_credit(run, reference=reference, episodes=episodes, how=how).value

    return measure


def leave_one_out_of(run: Run, reference: str, episodes: int) -> Values:
    return measure_credit(run, method="difference", reference=reference, episodes=episodes).value


def mean_advantage(run: Run, reference: str, episodes: int) -> Values:
    """COMA's advantage of the actions drawn, averaged over all decisions: 0 but for chance, whatever the agent does."""
    if run.config.algo != "coma":
        return None
    played = record(valued_team(run), seeds_from(CREDIT_SEEDS, episodes))
    advantage = counterfactual_advantage(played.rows.double(), played.weights.double(), played.action)
    return torch.where(played.decided, advantage, 0.0).sum((0, 1)) / played.decided.sum((0, 1))


def effort_of(run: Run, reference: str, episodes: int) -> Values:
    """How often the agent acts at all."""
    effort = measure_effort(play(run.env, run.team, seeds_from(CREDIT_SEEDS, episodes)), run.env.spec)
    return None if None in effort else torch.tensor(effort, dtype=torch.float64)


def own_pay(run: Run, reference: str, episodes: int) -> Values:
    """The agents' own rewards, where the task has them."""
    pay = play(run.env, run.team, seeds_from(CREDIT_SEEDS, episodes)).agent_returns
    return None if pay is None else pay.mean(0)


SIMPLE: dict[str, Callable[[Run, str, int], Values]] = {
    "simulator, leave-one-out": leave_one_out_of,
    "mixer, Shapley": by_mixer("shapley"),
    "mixer, integrated gradients": by_mixer("integrated-gradients"),
    "mixer, gradient": by_mixer("gradient"),
    "mean of COMA's advantage": mean_advantage,
    "action counts": effort_of,
    "own rewards": own_pay,
}
ESTIMATORS = ("simulator, leave-one-out", "critic", "mixer, Shapley", "mixer, integrated gradients", "mixer, gradient",
              "size of COMA's advantage", "mean of COMA's advantage", "action counts", "own rewards")  # fmt: skip


def measured(run: Run, name: str, reference: str, episodes: int) -> dict[str, Any]:
    """Truth and every estimate of one run under one reference."""
    began = time.monotonic()
    per_episode = truth_of(run, reference, STUDIES[name].episodes)
    truth = per_episode.mean(1)
    critic = measure_credit(run, method="critic", reference=reference, episodes=episodes)
    assert isinstance(critic, CriticCredit)
    values = {"critic": critic.value, "size of COMA's advantage": critic.gradient_weight}
    values |= {estimator: measure(run, reference, episodes) for estimator, measure in SIMPLE.items()}
    ceiling = agreement_with_itself(per_episode)
    forks = critic.forks
    return {
        "task": name,
        "algo": run.config.algo,
        "seed": run.config.seed,
        "reference": reference,
        "return": json.loads((run.folder / "result.json").read_text())["return"]["mean"],
        "agents": list(run.env.spec.agents),
        "truth": truth.tolist(),
        "truth_error": (per_episode.std(1) / per_episode.shape[1] ** 0.5).tolist(),
        "truth_episodes": per_episode.shape[1],
        "ceiling": {"spearman": ceiling[0], "pearson": ceiling[1]},
        "critic": {
            "reliable": critic.reliable,
            "why": critic.why,
            "forks_correlation": None if forks is None else forks.calibration.correlation,
            "explained_variance": None if critic.returns is None else critic.returns.explained_variance,
        },
        "estimates": {
            estimator: {"values": found.tolist(), "spearman": rank_correlation(found, truth), "pearson": pearson(found, truth)}
            for estimator in ESTIMATORS
            if (found := values[estimator]) is not None
        },
        "seconds": time.monotonic() - began,
    }


def score(row: dict[str, Any], estimator: str, measure: str = "spearman") -> float:
    """The estimator's correlation with the truth; 0 where it ranks all agents alike; NaN where the truth itself does."""
    if math.isnan(row["ceiling"]["spearman"]):
        return math.nan
    found = row["estimates"][estimator][measure]
    return 0.0 if math.isnan(found) else found


def finite(values: list[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def averaged(values: list[float]) -> str:
    """Mean and the extremes over the runs whose truth has an order."""
    real = finite(values)
    if not real:
        return "no order"
    short = "" if len(real) == len(values) else f" ({len(real)} of {len(values)} runs)"
    return f"{mean(real):.2f} [{min(real):.2f}, {max(real):.2f}]{short}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])


def groups(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["task"], row["reference"], row["algo"]), []).append(row)
    return found


def show(rows: list[dict[str, Any]]) -> str:
    """Per task and reference: what was true, then the rank correlation of each estimator per algorithm."""
    parts, by_group = [], groups(rows)
    for task, reference in dict.fromkeys((task, reference) for task, reference, _ in by_group):
        algos = [algo for algo in ALGOS if (task, reference, algo) in by_group]
        parts.append(f"\n### {task}, absent agents: {reference}\n")
        lines = []
        for algo in algos:
            mine = by_group[task, reference, algo]
            truth = torch.tensor([row["truth"] for row in mine]).mean(0).tolist()
            lines.append([algo, str(len(mine)), f"{mean([row['return'] for row in mine]):.3f}", *(f"{value:+.3f}" for value in truth)])
        agents = by_group[task, reference, algos[0]][0]["agents"]
        parts.append(markdown(["", "runs", "team return", *(f"Shapley of {agent}" for agent in agents)], lines) + "\n")
        lines = [["ceiling", *(averaged([row["ceiling"]["spearman"] for row in by_group[task, reference, algo]]) for algo in algos)]]
        for estimator in ESTIMATORS:
            cells = []
            for algo in algos:
                mine = by_group[task, reference, algo]
                cells.append(averaged([score(row, estimator) for row in mine]) if estimator in mine[0]["estimates"] else "")
            if any(cells):
                lines.append([estimator, *cells])
        parts.append(markdown(["Spearman: mean [lowest, highest run]", *algos], lines))
    return "\n".join(parts)


def trust(rows: list[dict[str, Any]]) -> str:
    """Per estimator, over everything measured: the mean rank correlation of each group of runs, and in how many it reaches the target."""
    lines = []
    for estimator in ESTIMATORS:
        spearmans, pearsons = [], []
        for mine in groups(rows).values():
            if estimator in mine[0]["estimates"] and (real := finite([score(row, estimator) for row in mine])):
                spearmans.append(mean(real))
                pearsons.append(mean(finite([score(row, estimator, "pearson") for row in mine])))
        if spearmans:
            reached = sum(value >= TARGET for value in spearmans)
            verdict = "trusted" if reached == len(spearmans) else "unreliable"
            figures = (mean(spearmans), min(spearmans), mean(pearsons))
            lines.append([estimator, *(f"{value:.2f}" for value in figures), f"{reached} of {len(spearmans)}", verdict])
    header = ["estimator", "mean Spearman", "worst group", "mean Pearson", f"groups with {TARGET:g} or more", "verdict"]
    return markdown(header, lines) + "\n\n" + critics(rows)


def critics(rows: list[dict[str, Any]]) -> str:
    """The critic's rank correlation, apart by what its own calibration says of it."""
    lines = []
    for said, name in ((True, "believed"), (False, "not believed"), (None, "undecided")):
        found = finite([score(row, "critic") for row in rows if row["critic"]["reliable"] is said])
        if found:
            lines.append([name, str(len(found)), averaged(found)])
    return markdown(["the critic's own calibration", "runs and references", "Spearman: mean [lowest, highest]"], lines)


def spread_out(seeds: str) -> list[int]:
    """0-4 as 0, 1, 2, 3, 4."""
    first, _, last = seeds.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(STUDIES), default=[name for name in STUDIES if name != "spread"])
    parser.add_argument("--algos", nargs="+", choices=ALGOS, default=list(ALGOS))
    parser.add_argument("--references", nargs="+", choices=REFERENCES, default=list(REFERENCES))
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--episodes", type=int, default=256, help="behind every estimate")
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in spread_out(args.seeds):
        for name in args.tasks:
            for algo in args.algos:
                began = time.monotonic()
                run = trained(name, algo, seed, args.out)
                if args.train_only:
                    print(f"{name} {algo} seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
                    continue
                for reference in args.references:
                    file = run.folder / f"credit-{reference}.json"
                    if not file.exists():
                        file.write_text(json.dumps(measured(run, name, reference, args.episodes)))
                        print(f"{name} {algo} seed {seed} {reference}: {time.monotonic() - began:.0f} s", flush=True)
                    rows.append(json.loads(file.read_text()))
    if rows:
        (args.out / "table.json").write_text(json.dumps({"schema": 1, "runs": rows}, indent=1))
        print(show(rows), "\n\n### Over all of these\n\n" + trust(rows), sep="")
        if len(working := [row for row in rows if row["return"] > 0]) < len(rows):
            print("\n### Over the teams that return more than 0\n\n" + trust(working))


if __name__ == "__main__":
    main()
