"""Do the 95% intervals of credit hold the truth 95 times in 100? Measured on foraging teams whose members are planted.

    python scripts/credit_pool.py --out FOLDER [--episodes 5000] [--repetitions 1000]

First a pool: each of the 16 coalitions of a team of four plays the same seeded episodes; absent members follow the reference. It is
stored (FOLDER/<team>-<reference>.npz) and not played again. Then, many times over, a few of the pool's episodes are drawn with
replacement, paired across coalitions, and credit is estimated from them as `marl credit` does. The pool is the whole population of
those draws, so the truth is the pool's own mean, known exactly.

Rows marked "not offered" are no interval of the library: what other bounds would do on the same draws.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from teamcredit.credit import EpisodeGame, all_coalitions, leave_one_out, shapley, shapley_from_values
from teamcredit.credit.base import coalition_masks
from teamcredit.credit.intervals import t_interval
from teamcredit.marl.cli_output import number
from teamcredit.marl.evaluate import play, seeds_from
from teamcredit.marl.inspection import reference_policy
from teamcredit.marl.policies import Override, Team, parse_members
from teamcredit.marl.run import train
from teamcredit.marl.trainer import scripted_policies

TASK = "native/foraging-8x8-4p-3f"
TEAMS = {
    "weak": ("forager", "half-forager", "random", "noop"),
    "harmed": ("forager", "forager", "shadow", "saboteur"),
}
"""Every kind of member: good, half-trained, random, no-op, shadow, saboteur."""
REFERENCES = ("noop", "random")
POOL_SEEDS = 700_000_000
WIDTH = 1.0
"""Of one episode's possible team return."""
Interval = tuple[torch.Tensor, torch.Tensor]


def play_pool(team: str, reference: str, episodes: int) -> tuple[torch.Tensor, int]:
    """Returns (coalition, episode) and the env steps; only those who are in a coalition are asked what they would do."""
    folder = Path(tempfile.mkdtemp()) / "untrained"
    run = train(TASK, algo="vdn", steps=0, options={"network.hidden": 8, "evaluation.final_episodes": 2}, out=folder)
    spec, seeds = run.env.spec, seeds_from(POOL_SEEDS, episodes)
    absent, returns, env_steps = reference_policy(reference, spec), [], 0
    for coalition in all_coalitions(spec.num_agents):
        planted = [f"{name}={kind}" for name, kind, is_in in zip(spec.agents, TEAMS[team], coalition.tolist(), strict=True) if is_in]
        members, _ = parse_members(planted, spec, scripted_policies(run.env))
        played = play(run.env, Team(run.team.utility, members), seeds, [Override(absent, ~coalition)])
        returns.append(played.returns)
        env_steps += played.env_steps
    return torch.stack(returns), env_steps


def pool_of(team: str, reference: str, episodes: int, folder: Path) -> torch.Tensor:
    """Returns (coalition, episode), from the file or played now; row m is the coalition whose bits are set in m."""
    file = folder / f"{team}-{reference}.npz"
    if file.exists():
        stored = np.load(file)
        if tuple(stored["members"]) == TEAMS[team] and stored["returns"].shape[1] >= episodes:
            return torch.from_numpy(stored["returns"][:, :episodes])
    began = time.monotonic()
    returns, env_steps = play_pool(team, reference, episodes)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"members": np.array(TEAMS[team]), "first_seed": POOL_SEEDS, "env_steps": env_steps, "task": TASK}
    np.savez_compressed(file, returns=returns.numpy(), **about)
    print(f"pool {file.name}: {env_steps:,} env steps in {time.monotonic() - began:.0f} s", flush=True)
    return returns


def resampled(pool: torch.Tensor, count: int, generator: torch.Generator) -> EpisodeGame:
    """`count` episodes of the pool, drawn with replacement, as a game."""
    drawn = pool[:, torch.randint(pool.shape[1], (count,), generator=generator)]
    return EpisodeGame(lambda coalitions, episodes: (drawn[coalition_masks(coalitions)][:, episodes], 0), 4)


def bootstrap_t(samples: torch.Tensor, generator: torch.Generator, resamples: int = 999) -> Interval:
    """Studentised bootstrap; the plain mean where all samples are alike."""
    count = samples.shape[1]
    picks = torch.randint(count, (resamples, count), generator=generator)
    again = samples[:, picks]  # (agent, resample, sample)
    mean, error = samples.mean(1), samples.std(1) / count**0.5
    pulled = (again.mean(2) - mean.unsqueeze(1)) / (again.std(2) / count**0.5).clamp_min(1e-12)
    low, high = torch.quantile(pulled, torch.tensor([0.025, 0.975], dtype=torch.float64), 1)
    return mean - high * error, mean - low * error


def estimates(game: EpisodeGame, count: int, generator: torch.Generator, *, slow: bool) -> dict[str, tuple[str, Interval]]:
    """way -> (index, interval)."""
    found: dict[str, tuple[str, Interval]] = {}

    def keep(way: str, index: str, credit: Any) -> None:
        found[way] = (index, (credit.low, credit.high))

    keep("Shapley, t (range unknown)", "shapley", shapley(game, 4, episodes=count))
    keep("Shapley, betting (range known)", "shapley", shapley(game, 4, episodes=count, bound=WIDTH))
    rings = shapley(game, 4, episodes=count, exact_up_to=0, rings=16, generator=generator)
    keep("Shapley, 16 sampled rings, t", "shapley", rings)
    keep("leave-one-out, t and worst (range unknown)", "leave-one-out", leave_one_out(game, 4, episodes=count))
    keep("leave-one-out, betting (range known)", "leave-one-out", leave_one_out(game, 4, episodes=count, bound=WIDTH))
    values = game.play(all_coalitions(4), torch.arange(count))
    differences = values[-1] - values[[14, 13, 11, 7]]
    found["leave-one-out, plain t (not offered)"] = ("leave-one-out", t_interval(differences))
    if slow:
        per_episode = shapley_from_values(values)
        found["Shapley, bootstrap-t (not offered)"] = ("shapley", bootstrap_t(per_episode, generator))
        found["leave-one-out, bootstrap-t (not offered)"] = ("leave-one-out", bootstrap_t(differences, generator))
    return found


def covered(pool: torch.Tensor, count: int, repetitions: int, seed: int, *, slow: bool) -> dict[str, dict[str, list[float]]]:
    """way -> coverage, share of intervals that lie wholly above or below the truth, and mean width; per agent."""
    generator = torch.Generator().manual_seed(seed)
    means = pool.mean(1)
    truth = {"shapley": shapley_from_values(means), "leave-one-out": means[-1] - means[[14, 13, 11, 7]]}
    hits: dict[str, list[torch.Tensor]] = {}
    for _ in range(repetitions):
        for way, (index, (low, high)) in estimates(resampled(pool, count, generator), count, generator, slow=slow).items():
            real = truth[index]
            over, under = low > real + 1e-9, high < real - 1e-9
            hits.setdefault(way, []).append(torch.stack([(~over & ~under).double(), over.double(), under.double(), high - low]))
    names = ("coverage", "above", "below", "width")
    return {way: dict(zip(names, torch.stack(rows).mean(0).tolist(), strict=True)) for way, rows in hits.items()}


def described(pool: torch.Tensor) -> dict[str, list[float]]:
    """The truth of a pool, and how rare an episode is in which the agent matters."""
    per_episode, means = shapley_from_values(pool), pool.mean(1)
    differences = pool[-1] - pool[[14, 13, 11, 7]]
    return {
        "shapley": per_episode.mean(1).tolist(),
        "shapley_sd": per_episode.std(1).tolist(),
        "leave-one-out": differences.mean(1).tolist(),
        "leave-one-out_sd": differences.std(1).tolist(),
        "leave-one-out_not_0": (differences != 0).double().mean(1).tolist(),
        "values": means.tolist(),
    }


def markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(results: list[dict[str, Any]]) -> str:
    """Truths, then coverage (and mean width) per agent."""
    parts = []
    for result in results:
        truth, members = result["truth"], TEAMS[result["team"]]
        parts.append(f"\n### Team {result['team']} ({', '.join(members)}), absent members follow {result['reference']}\n")
        rows = [
            (
                name,
                f"{truth['shapley'][i]:+.4f}",
                f"{truth['shapley_sd'][i]:.3f}",
                f"{truth['leave-one-out'][i]:+.4f}",
                f"{truth['leave-one-out_sd'][i]:.3f}",
                f"{100 * truth['leave-one-out_not_0'][i]:.1f}%",
            )
            for i, name in enumerate(members)
        ]
        header = (
            "member",
            "Shapley",
            "sd per episode",
            "leave-one-out",
            "sd per episode",
            "episodes in which its absence changes the return",
        )
        parts.append(markdown(header, rows))
        rows = []
        for count, ways in result["coverage"].items():
            for way, found in ways.items():
                cells = [f"{c:.3f} ({number(w)})" for c, w in zip(found["coverage"], found["width"], strict=True)]
                rows.append((str(count), way, *cells))
        labels = [f"{name} {i}" if members.count(name) > 1 else name for i, name in enumerate(members)]
        parts.append("\n" + markdown(("episodes", "interval", *labels), rows))
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the stored pools")
    parser.add_argument("--episodes", type=int, default=5_000, help="of the pool, per coalition")
    parser.add_argument("--repetitions", type=int, default=1_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="episodes per estimate")
    parser.add_argument("--teams", nargs="+", choices=list(TEAMS), default=list(TEAMS))
    parser.add_argument("--references", nargs="+", choices=REFERENCES, default=list(REFERENCES))
    parser.add_argument("--pool-only", action="store_true")
    parser.add_argument("--bootstrap", action="store_true", help="the studentised bootstrap beside them (slow)")
    parser.add_argument("--json", type=Path, help="the same numbers as JSON into this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for team in args.teams:
        for reference in args.references:
            pool = pool_of(team, reference, args.episodes, args.out)
            if args.pool_only:
                continue
            began = time.monotonic()
            coverage = {count: covered(pool, count, args.repetitions, count, slow=args.bootstrap) for count in args.sizes}
            results.append({"team": team, "members": TEAMS[team], "reference": reference, "episodes": pool.shape[1],
                            "repetitions": args.repetitions, "truth": described(pool), "coverage": coverage})  # fmt: skip
            print(show(results[-1:]), f"\n({time.monotonic() - began:.0f} s)", flush=True)
            if args.json:
                args.json.write_text(json.dumps({"schema": 1, "task": TASK, "pools": results}, indent=1))


if __name__ == "__main__":
    main()
