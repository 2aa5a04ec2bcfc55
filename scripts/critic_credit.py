"""How far may credit from a critic be trusted? Prints, for each run given, the critic's credit beside the simulator's; JSON with --json.

Per run and agent: what single decisions are worth by the run's critic (`marl credit --method critic`), and what the team loses over
an episode when that agent alone follows the reference (`--method difference`, episodes without exploration). These are two quantities:
one replaces one action, the other the agent, so their ranks are compared, not their values. With two to four agents one run's rank
correlation is coarse; "pooled" ranks the agents of all runs of one task together. Then the critic's calibration, and the verdict.

    for s in 0 1 2; do marl train native/spread --algo vdn --critic.kind mlp --critic.target retrace --seed $s --out runs/spread-$s; done
    python scripts/critic_credit.py runs/spread-0 runs/spread-1 runs/spread-2 --reference random
"""

import argparse
import json
import time
from typing import Any

import torch
from teamcredit.credit.scores import spearman
from teamcredit.marl.cli_critic import critic_text
from teamcredit.marl.cli_findings import estimate_document
from teamcredit.marl.cli_output import number, table, to_json, with_interval
from teamcredit.marl.inspection import measure_credit
from teamcredit.marl.references import default_references
from teamcredit.marl.run import Run, load

METHODS = ("critic", "difference")


def compare(run: Run, reference: str, episodes: int, forks: int | None) -> dict[str, Any]:
    """Both credits of one run, as `marl credit --json` gives them, and the rank correlation over the agents that learned."""
    documents = {}
    for method in METHODS:
        of_critic = forks if method == "critic" else None
        credit = measure_credit(run, method=method, reference=reference, episodes=episodes, forks=of_critic)
        documents[method] = estimate_document(run, method, credit)
    learned = [name for name in run.env.spec.agents if name not in run.team.planted]
    claimed, real = (torch.tensor([documents[m]["agents"][name]["value"] for name in learned]) for m in METHODS)
    return {"run": str(run.folder), "task": run.config.task, "algo": run.config.algo, "agents": learned, **documents,
            "spearman": spearman(claimed, real)}  # fmt: skip


def pooled(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per task and algorithm with several runs: the rank correlation over the agents of all of them."""
    found = {}
    for name in dict.fromkeys(f"{row['task']} {row['algo']}" for row in rows):
        mine = [row for row in rows if f"{row['task']} {row['algo']}" == name]
        values = [[row[method]["agents"][agent]["value"] for row in mine for agent in row["agents"]] for method in METHODS]
        if len(mine) > 1:
            found[name] = {"runs": len(mine), "agents": len(values[0]), "spearman": spearman(*map(torch.tensor, values))}
    return found


def show(row: dict[str, Any]) -> str:
    """One run for people."""
    both = [row[method]["agents"] for method in METHODS]
    cells = [(name, *(with_interval(agents[name]["value"], agents[name]["interval"]) for agents in both)) for name in row["agents"]]
    head = f"{row['run']} ({row['task']}, {row['algo']}, {row['critic']['env_steps']:,} env steps), reference {row['critic']['reference']}"
    units = ("agent", "critic, per decision, discounted", "leave-one-out, per episode")
    return "\n".join([head, table(units, cells), f"rank correlation {number(row['spearman'])}", critic_text(row["critic"]), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run folders or names, each with a critic")
    parser.add_argument("--reference", choices=("noop", "random"), help="default: noop where every agent of the task has one")
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--forks", type=int, help="replaced actions per agent (default: 64 on native tasks, else 0)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    runs = [load(name) for name in args.runs]
    rows = [compare(run, args.reference or default_references(run.env.spec)[0], args.episodes, args.forks) for run in runs]
    together = pooled(rows)
    if args.json:
        print(json.dumps(json.loads(to_json({"runs": rows, "pooled": together}))))
        return
    for row in rows:
        print(show(row))
    for name, entry in together.items():
        print(f"pooled: {name}: rank correlation {number(entry['spearman'])} over {entry['agents']} agents of {entry['runs']} runs")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
