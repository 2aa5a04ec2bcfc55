"""How often is `marl lazy` right on a foraging team with planted members? Prints a table, and JSON with --json.

The team is scripted: two greedy foragers, one member that does nothing, one that acts at random. What the verdicts should be
follows from each member's effect over many episodes (20,000 by default) and the stated margin: above the margin under some
reference, contributing; below it under every reference, lazy (idle or busy by its effort). A member whose effect lies within
half the margin of the margin, under a reference that decides, is left out by name. Then `find_lazy` runs on ten other sets of episodes.

    python scripts/planted_foraging.py --episodes 20000 --seeds 10 --margin 0.25
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from teamcredit.marl.evaluate import seeds_from
from teamcredit.marl.laziness import Worlds, find_lazy, measure_effort
from teamcredit.marl.references import default_references, reference_policy
from teamcredit.marl.run import Run, train

TRUTH_SEEDS = 900_000_000


def scripted_team(task: str, members: str) -> Run:
    """A run of no training at all: every member is planted."""
    folder = Path(tempfile.mkdtemp()) / "planted"
    return train(task, algo="vdn", steps=0, options={"members": members, "evaluation.final_episodes": 2}, out=folder)


def true_effects(run: Run, episodes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean effects (agent, reference) and their standard errors over many paired episodes."""
    spec, names = run.env.spec, default_references(run.env.spec)
    worlds = Worlds(run.env, run.team, [reference_policy(name, spec) for name in names])
    parts = [worlds.differences(range(spec.num_agents), seeds_from(TRUTH_SEEDS + start, 1000)) for start in range(0, episodes, 1000)]
    differences = torch.cat(parts, -1)
    return differences.mean(-1), differences.std(-1) / differences.shape[-1] ** 0.5


def true_margin(run: Run, margin: float, episodes: int) -> torch.Tensor:
    """delta_rho = m G_rho / n over as many episodes."""
    spec, names = run.env.spec, default_references(run.env.spec)
    worlds = Worlds(run.env, run.team, [reference_policy(name, spec) for name in names])
    seeds = seeds_from(TRUTH_SEEDS, episodes)
    return margin * worlds.gains(seeds).mean(-1) / spec.num_agents


def expected(effect: torch.Tensor, delta: torch.Tensor, effort: float | None) -> str | None:
    """The verdict the true effects ask for; None where they lie too near the margin to ask for one."""
    if (effect > 1.5 * delta).any():
        return "contributing"
    if (effect < 0.5 * delta).all():
        return "lazy-idle" if effort is not None and effort < 0.1 else "lazy-busy"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="native/foraging-8x8-4p-3f")
    parser.add_argument("--members", default="agent_0=forager,agent_1=forager,agent_2=noop,agent_3=random")
    parser.add_argument("--episodes", type=int, default=20_000, help="episodes behind the true effects")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--margin", type=float, default=0.25)
    parser.add_argument("--max-pairs", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    run = scripted_team(args.task, args.members)
    spec, names = run.env.spec, default_references(run.env.spec)
    effect, error = true_effects(run, args.episodes)
    delta = true_margin(run, args.margin, args.episodes)
    worlds = Worlds(run.env, run.team, [])
    effort = measure_effort(worlds.play(seeds_from(TRUTH_SEEDS, 512), []), spec)
    wanted = [expected(effect[i], delta, effort[i]) for i in range(spec.num_agents)]
    rows, right = [], 0
    for seed in range(args.seeds):
        report = find_lazy(run, margin=args.margin, max_pairs=args.max_pairs, seed=seed + 1)
        found = [verdict.verdict for verdict in report.verdicts]
        is_right = all(want is None or want == got for want, got in zip(wanted, found, strict=True))
        right += is_right
        rows.append({"seed": seed + 1, "verdicts": found, "pairs": [verdict.episodes for verdict in report.verdicts], "right": is_right})
    if args.json:
        print(json.dumps({"schema": 1, "effect": effect.tolist(), "error": error.tolist(), "delta": delta.tolist(),
                          "expected": wanted, "left_out": [a for a, w in zip(spec.agents, wanted, strict=True) if w is None],
                          "runs": rows, "right": right}))  # fmt: skip
        return
    margins = ", ".join(f"{value:.4f} vs {name}" for value, name in zip(delta.tolist(), names, strict=True))
    print(f"{args.task}, margin {args.margin} of an equal share: {margins}")
    for i, agent in enumerate(spec.agents):
        shown = ", ".join(f"{effect[i, r]:+.4f} +- {1.96 * error[i, r]:.4f} vs {name}" for r, name in enumerate(names))
        print(f"  {agent} ({run.team.planted.get(agent, 'learned')}): {shown}; expected {wanted[i] or 'left out (within half the margin)'}")
    for row in rows:
        print(f"  seed {row['seed']}: {', '.join(row['verdicts'])}  pairs {row['pairs']}  {'right' if row['right'] else 'WRONG'}")
    print(f"right in {right} of {args.seeds} seeds; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
