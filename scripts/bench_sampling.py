"""How well sampled Shapley values do at a given number of calls of v, and how often their intervals hold the truth.

    python scripts/bench_sampling.py                       # error at a budget: airport (6 and 20 agents), majority, random 2-additive
    python scripts/bench_sampling.py --coverage            # 95% intervals over noisy games, 1,000 repetitions

Calls are counted before any cache, in whole draws: at most as many as stated. RMSE is over agents and repetitions; "bias / SE" is
the largest deviation of an agent's mean estimate from the truth, in standard errors of that mean (below 3: no bias seen). Truths are
closed forms (credit/games.py). The last rows of --coverage have no noise, many agents and few draws, where intervals are rough.
"""

import argparse
import math
from typing import get_args

import torch
from teamcredit.credit import EpisodeGame, shapley
from teamcredit.credit.games import TrueGame, airport, majority, random_two_additive
from teamcredit.credit.sampling import Sampler, calls, draw
from teamcredit.marl.cli_output import number, table


def games() -> list[tuple[TrueGame, int]]:
    """Each with its budget."""
    two_additive = random_two_additive(8, torch.Generator().manual_seed(0))
    return [(airport(range(1, 7)), 1_000), (airport(range(1, 21)), 2_000), (majority(9, 5), 1_000), (two_additive, 1_000)]


def errors(game: TrueGame, sampler: Sampler, budget: int, repetitions: int) -> tuple[float, float]:
    """RMSE, and the largest bias in standard errors."""
    generator = torch.Generator().manual_seed(1)
    count = budget // calls(sampler, game.num_agents)
    found = []
    for _ in range(repetitions):
        draws = [draw(sampler, game.num_agents, generator) for _ in range(count)]
        values = game(torch.cat([one.coalitions for one in draws])).split([len(one.coalitions) for one in draws])
        found.append(torch.stack([one.combine(of_draw) for one, of_draw in zip(draws, values, strict=True)]).mean(0))
    off = torch.stack(found) - game.shapley
    error = (off.std(0) / math.sqrt(repetitions)).clamp_min(1e-12)  # an agent that every draw gets right to rounding
    return float(off.square().mean().sqrt()), float((off.mean(0).abs() / error).max())


def covered(game: TrueGame, sampler: Sampler, noise: float, repetitions: int, budget: int | None) -> tuple[float, float]:
    """The share of agents' 95% intervals that hold the truth, and their mean width.

    Every episode adds noise of its own to v, 64 of them in 32 draws; with a budget v is a plain function.
    """
    hits, widths = [], []
    for repetition in range(repetitions):
        generator = torch.Generator().manual_seed(repetition)

        def simulate(coalitions, episodes, generator=generator):
            values = game(coalitions).unsqueeze(1)
            return values + noise * torch.randn(len(coalitions), len(episodes), generator=generator, dtype=torch.float64), 0

        how = {"exact_up_to": 0, "sampler": sampler, "generator": generator}
        if budget is None:
            credit = shapley(EpisodeGame(simulate, game.num_agents), game.num_agents, episodes=64, rings=32, **how)
        else:
            credit = shapley(game, game.num_agents, budget=budget, **how)
        assert credit.low is not None
        assert credit.high is not None
        hits.append((credit.low - 1e-12 <= game.shapley) & (game.shapley <= credit.high + 1e-12))
        widths.append(float((credit.high - credit.low).mean()))
    return float(torch.stack(hits).double().mean()), sum(widths) / len(widths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--repetitions", type=int, default=None, help="default: 200 (errors), 1,000 (coverage)")
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviation of the noise in v (coverage)")
    arguments = parser.parse_args()
    samplers = get_args(Sampler)
    if arguments.coverage:
        repetitions, noise = arguments.repetitions or 1_000, arguments.noise
        two_additive = random_two_additive(6, torch.Generator().manual_seed(0))
        shown = [(airport(range(1, 7)), noise, None), (majority(7, 4), 0.0, None), (two_additive, noise, None)]
        rows = []
        for game, noise, budget in [*shown, (airport(range(1, 21)), 0.0, 2_000)]:
            for sampler in samplers:
                share, width = covered(game, sampler, noise, repetitions, budget)
                rows.append((game.name, str(game.num_agents), number(noise), sampler, f"{share:.3f}", number(width)))
        print(table(("game", "agents", "noise", "way", "coverage", "mean width"), rows))
        return
    rows = []
    for game, budget in games():
        for sampler in samplers:
            rmse, bias = errors(game, sampler, budget, arguments.repetitions or 200)
            rows.append((game.name, str(game.num_agents), f"{budget:,}", sampler, f"{rmse:.4f}", f"{bias:.1f}"))
    print(table(("game", "agents", "calls", "way", "RMSE", "bias / SE"), rows))


if __name__ == "__main__":
    main()
