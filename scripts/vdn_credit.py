"""Which credit do VDN's utility gaps hold? Prints, per game and way of exploring, the gaps beside the exact fit and the true indices.

Each run trains VDN on a one-step coalition game (marl/coalition_tasks.py); the gap q_i(join) - q_i(stay out) is then read for every
agent. Ways of exploring: everybody uniform (the fit is the Banzhaf value), everybody in with probability .95 (nearly leave-one-out),
and probe episodes whose coalitions come from the Shapley kernel (`exploration.probe_share 1`, `probe_members active`; the gaps moved by
one number to add up to v(N) - v(empty) are the Shapley value). "exact" is the same additive fit of all 2^n values, without a network.

    python scripts/vdn_credit.py --seeds 5

--json prints the same as JSON. Root mean square errors are over agents and seeds, in units of v.
"""

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from teamcredit.credit import all_coalitions, banzhaf_from_values
from teamcredit.credit.games import TrueGame
from teamcredit.credit.probes import additive_fit, joining_weights, size_probabilities, size_weights, with_total
from teamcredit.marl.coalition_tasks import true_game
from teamcredit.marl.run import configure, make_env
from teamcredit.marl.seeds import Together
from torch import Tensor

GAMES = ("airport-6", "majority-5-3", "either-or", "harmful")
NEARLY = 0.95
BASE: dict[str, Any] = {
    "algo": "vdn", "steps": 16_384, "network.hidden": 64, "network.layers": 1, "network.layer_norm": False, "network.share": False,
    "learner.gamma": 0.99, "learner.lr": 3e-3, "learner.lr_decay": "linear", "learner.target_every": 100, "compile": "off",
    "replay.sampling": "uniform", "replay.rollout_steps": 8, "replay.num_envs": 128, "replay.capacity": 16_384,
    "replay.minibatch_size": 512, "replay.replay_ratio": 32,
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "uniform": {"exploration.start": 1.0, "exploration.end": 1.0},
    "95% in": {"exploration.start": 0.1, "exploration.end": 0.1},
    "kernel": {"exploration.probe_share": 1.0, "exploration.probe_ends": 0.5, "exploration.probe_members": "active"},
    "kernel, 9 in 10 at the ends": {"exploration.probe_share": 1.0, "exploration.probe_ends": 0.9, "exploration.probe_members": "active"},
}  # fmt: skip
"""How each way explores; epsilon .1 on two actions is .95 for the greedy one."""


def exact(game: TrueGame, way: str) -> Tensor:
    """The additive fit that such exploration has as its fixed point, where everybody's greedy action is to join."""
    coalitions, n = all_coalitions(game.num_agents), game.num_agents
    if way == "uniform":
        weights = joining_weights(torch.full((n,), 0.5, dtype=torch.float64))
    elif way == "95% in":
        weights = joining_weights(torch.full((n,), NEARLY, dtype=torch.float64))
    else:
        weights = size_weights(size_probabilities(n, WAYS[way]["exploration.probe_ends"]))
    return additive_fit(coalitions, game(coalitions), weights).gain


def gaps(name: str, way: str, seeds: int) -> Float[Tensor, "seed agent"]:
    """VDN's utility gaps after training."""
    resolved = configure(options={"task": f"native/coalition-{name}", **BASE, **WAYS[way]}, environ={})
    env = make_env(resolved.config)
    together = Together([replace(resolved.config, seed=seed) for seed in range(seeds)], env)
    while not together.finished:
        together.round()
    _, view = env.reset(torch.zeros(1, dtype=torch.int64))
    found = []
    with torch.no_grad():
        for trainer in together.trainers:
            q, _ = trainer.team.utility(view.obs, trainer.team.utility.initial_memory(1))
            found.append(q[0, :, 1] - q[0, :, 0])
    return torch.stack(found).to(torch.float64)


def compare(name: str, seeds: int) -> list[dict[str, Any]]:
    """One row per way of exploring this game."""
    game = true_game(name)
    values = game(all_coalitions(game.num_agents))
    total = float(values[-1] - values[0])
    indices = {"banzhaf": banzhaf_from_values(values), "leave-one-out": game.leave_one_out, "shapley": game.shapley}
    rows = []
    for way in WAYS:
        found = gaps(name, way, seeds)
        fit = exact(game, way)
        row: dict[str, Any] = {"game": name, "way": way, "gaps": found.mean(0).tolist(), "exact": fit.tolist()}
        row["rmse"] = {"exact fit": _rmse(found, fit), **{index: _rmse(found, truth) for index, truth in indices.items()}}
        row["rmse"]["shapley, moved to the total"] = _rmse(with_total(found, total), game.shapley)
        row["joining"] = (found > 0).sum(1).tolist()
        rows.append(row)
    return rows


def _rmse(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).square().mean().sqrt())


def show(row: dict[str, Any]) -> str:
    """One row for people."""
    listed = {name: " ".join(f"{value:6.3f}" for value in row[name]) for name in ("gaps", "exact")}
    errors = "  ".join(f"{name} {value:.3f}" for name, value in row["rmse"].items())
    joining = ", ".join(map(str, row["joining"]))
    return f"  {row['way']:<28} gaps {listed['gaps']}   exact {listed['exact']}\n{'':<30} rmse to: {errors}   (join greedily: {joining})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--games", nargs="+", default=list(GAMES))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began, rows = time.monotonic(), []
    for name in args.games:
        rows += (found := compare(name, args.seeds))
        if not args.json:
            truth = " ".join(f"{value:6.3f}" for value in true_game(name).shapley.tolist())
            print("\n".join([f"{name}: true Shapley {truth}", *map(show, found)]), flush=True)
    print(json.dumps(rows) if args.json else f"{args.seeds} seeds each, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
