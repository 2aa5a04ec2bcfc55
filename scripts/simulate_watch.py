"""The watch of `--watch-credit` on drawn differences: how often it is wrong where nobody is lazy, and how soon it finds who turned idle.

Four agents, two references, a margin of 0.05 of the range of returns, no budget. At the margin: D has mean 0.05 under the first reference
and is 0 under the second, for 40 looks. Drift: D has mean 0.3 and standard deviation 0.4, and at look 21 one agent's mean turns 0.

    python scripts/simulate_watch.py --runs 200
"""

import argparse
from collections.abc import Callable

import torch
from teamcredit.marl.watch import Alarm, begin_watch, observe
from torch import Tensor

AGENTS, REFERENCES, DELTA, BOUND = 4, 2, 0.05, 1.0
TURNS_AT, TURNED = 20, 2
Draw = Callable[[torch.Generator, int, tuple[int, ...], int], Tensor]
"""draw(generator, look, agents, pairs) -> differences (agent, reference, pair)."""


def rare(chance: float, size: float) -> Draw:
    """D = size with this chance and else 0: exactly at the margin if chance * size is DELTA."""

    def draw(generator: torch.Generator, look: int, agents: tuple[int, ...], pairs: int) -> Tensor:
        differences = torch.zeros(len(agents), REFERENCES, pairs, dtype=torch.float64)
        differences[:, 0] = size * (torch.rand(len(agents), pairs, generator=generator) < chance).to(torch.float64)
        return differences

    return draw


def normal_at_margin(sd: float) -> Draw:
    """D normal, cut to the range."""

    def draw(generator: torch.Generator, look: int, agents: tuple[int, ...], pairs: int) -> Tensor:
        differences = torch.zeros(len(agents), REFERENCES, pairs, dtype=torch.float64)
        differences[:, 0] = (DELTA + sd * torch.randn(len(agents), pairs, generator=generator, dtype=torch.float64)).clamp(-BOUND, BOUND)
        return differences

    return draw


def drift(sd: float) -> Draw:
    """One agent's differences turn to mean 0 with this standard deviation."""

    def draw(generator: torch.Generator, look: int, agents: tuple[int, ...], pairs: int) -> Tensor:
        noise = torch.randn(len(agents), REFERENCES, pairs, generator=generator, dtype=torch.float64)
        idle = torch.tensor([agent == TURNED and look >= TURNS_AT for agent in agents]).view(-1, 1, 1)
        return torch.where(idle, sd * noise, 0.3 + 0.4 * noise).clamp(-BOUND, BOUND)

    return draw


def watched(seed: int, draw: Draw, looks: int, max_pairs: int) -> list[tuple[int, Alarm]]:
    """(look, alarm) of one run."""
    generator, state, told = torch.Generator().manual_seed(seed), begin_watch(AGENTS, REFERENCES), []
    for look in range(looks):

        def play(agents: tuple[int, ...], pairs: int, look: int = look) -> tuple[Tensor, int]:
            return draw(generator, look, agents, pairs), pairs * (1 + len(agents) * REFERENCES)

        state, seen = observe(state, play, torch.full((REFERENCES,), DELTA), bound=BOUND, max_pairs=max_pairs)
        told += [(look, alarm) for alarm in seen.alarms]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, draw in (("1 in 20, size 1", rare(0.05, 1.0)), ("1 in 4, size 0.2", rare(0.25, 0.2)), ("sd 0.1", normal_at_margin(0.1))):
        false = sum(any(alarm.kind == "lazy" for _, alarm in watched(seed, draw, 40, 256)) for seed in range(args.runs))
        print(f"at the margin, {name}: somebody called lazy in {false} of {args.runs} runs", flush=True)
    for sd in (0.0, 0.1, 0.2):
        delays, false = [], 0
        for seed in range(args.runs):
            lazy = [(look, alarm.agent) for look, alarm in watched(seed, drift(sd), 30, 512) if alarm.kind == "lazy"]
            hits = [look - TURNS_AT for look, agent in lazy if agent == TURNED and look >= TURNS_AT]
            false += len(lazy) > len(hits)
            delays.append(hits[0] if hits else 99)
        within = ", ".join(f"{sum(delay <= late for delay in delays) / args.runs:.3f}" for late in (0, 1, 2))
        print(f"drift, sd {sd:g}: found at the first look, one later, two later: {within}; false in {false} runs", flush=True)


if __name__ == "__main__":
    main()
