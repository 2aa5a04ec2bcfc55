"""The episodes of a planted team, all played at once: what baselines are given, and what is true.

A pool is cut into slices. Each slice is what the baselines of one run may see (our own test plays its own episodes); what is true of
the team, for that run, is the mean over all the other episodes. So truth and test share nothing, and one long play serves several runs.
Only the ranking that is scored again uses episodes of the truth too (`windows_of`).

    effect[i, rho] = mean of R_k(pi) - R_k(rho_i, pi_-i)        gain[rho] = mean of R_k(pi) - R_k(rho, ..., rho)
    headroom[i]    = mean of R_k(good_i, pi_-i) - R_k(pi)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...credit.margin import Margin, measure_margin
from ..evaluate import seeds_from
from ..references import names_of
from ..worlds import Worlds, measure_effort
from .planted import PlantedTeam, is_native

PAIRS = 64
"""What a baseline may see in one run."""
MARGIN_EPISODES = 256
"""Episodes on which the team's gain is measured for it."""
_POOL_SEEDS, _MARGIN_SEEDS, _ROOM_SEEDS = 110_000_000, 120_000_000, 130_000_000
_ROWS = 20_000
"""Episodes played side by side at most."""


@dataclass(frozen=True)
class Sizes:
    """How much is played for the truth, beside what detectors see."""

    pairs: int
    margin: int
    room: int


NATIVE = Sizes(pairs=4096, margin=2048, room=1024)
REAL = Sizes(pairs=512, margin=256, room=256)
QUICK = Sizes(pairs=1024, margin=512, room=256)


@dataclass(frozen=True)
class Truth:
    """What is true of a team's members."""

    effect: Float[Tensor, "agent reference"]
    error: Float[Tensor, "agent reference"]
    """Its standard error."""
    gain: Float[Tensor, " reference"]
    headroom: Float[Tensor, " agent"]
    pairs: int

    def delta(self, fraction: float) -> Float[Tensor, " reference"]:
        """m G_rho / n."""
        return fraction * self.gain / len(self.effect)


@dataclass(frozen=True)
class Pool:
    """All of a team's episodes."""

    planted: PlantedTeam
    references: tuple[str, ...]
    slices: int
    differences: Float[Tensor, "agent reference pair"]
    """The first `slices` * PAIRS are the baselines'."""
    team: Float[Tensor, " episode"]
    """R_k(pi); the first `slices` * MARGIN_EPISODES are the baselines'."""
    replaced: Float[Tensor, "reference episode"]
    """R_k(rho, ..., rho)."""
    room: Float[Tensor, "agent try"]
    """R_k(good_i, pi_-i) - R_k(pi)."""
    effort: tuple[float | None, ...]
    taken: Float[Tensor, "agent action"]
    """How often each agent took each action where it had a choice."""
    length: float
    """Env steps of an episode, on the mean."""
    env_steps: int

    def pairs_of(self, number: int) -> Float[Tensor, "agent reference pair"]:
        """The pairs of a slice."""
        return self.differences[..., number * PAIRS : (number + 1) * PAIRS]

    def windows_of(self, number: int, pairs: int, most: int) -> Float[Tensor, "window agent reference pair"]:
        """A slice's share of all pairs, cut into windows of so many, at most `most` of them: no window serves two slices.

        All but a slice's own pairs are also among those behind its truth: 32 windows of 16 are an eighth of them (`NATIVE`), or most
        (`REAL`). One window is too small a part of the truth to be told by it.
        """
        share = self.differences.shape[-1] // pairs // self.slices
        count = min(share, most)
        chosen = self.differences[..., number * share * pairs : (number * share + count) * pairs]
        return chosen.unflatten(-1, (count, pairs)).movedim(2, 0)

    def margin_of(self, number: int, fraction: float) -> Margin:
        """The margin as measured on a slice's episodes."""
        rows = slice(number * MARGIN_EPISODES, (number + 1) * MARGIN_EPISODES)
        return measure_margin(
            self.team[rows],
            self.replaced[:, rows],
            num_agents=len(self.differences),
            names=self.references,
            fraction=fraction,
            return_range=self.planted.env.spec.return_range,
        )

    def truth_of(self, number: int) -> Truth:
        """What all the other episodes say."""
        pairs = self.differences[..., _others(self.differences.shape[-1], number, PAIRS)]
        rows = _others(len(self.team), number, MARGIN_EPISODES)
        return Truth(
            effect=pairs.mean(-1),
            error=pairs.std(-1) / pairs.shape[-1] ** 0.5,
            gain=(self.team[rows] - self.replaced[:, rows]).mean(-1),
            headroom=self.room.mean(-1),
            pairs=pairs.shape[-1],
        )


def _others(total: int, number: int, size: int) -> Bool[Tensor, " row"]:
    """True outside a slice."""
    rows = torch.arange(total)
    return (rows < number * size) | (rows >= (number + 1) * size)


def play_pool(planted: PlantedTeam, slices: int, sizes: Sizes, seed: int) -> Pool:
    """Plays a team's episodes: `slices` runs of the baselines, and at least `sizes` more for what is true at each."""
    stands = planted.stands
    worlds = Worlds(planted.env, planted.team, [stand.policy for stand in stands])
    n, shift = planted.env.spec.num_agents, seed * 1_000_000
    pairs = max(slices * PAIRS, PAIRS + sizes.pairs)
    chunk = max(64, _ROWS // (1 + n * len(stands))) if is_native(planted) else 128
    seeds = seeds_from(_POOL_SEEDS + shift, pairs)
    differences = torch.cat([worlds.differences(range(n), part) for part in seeds.split(chunk)], -1)
    margin = seeds_from(_MARGIN_SEEDS + shift, max(slices * MARGIN_EPISODES, MARGIN_EPISODES + sizes.margin))
    base = worlds.play(margin, [])
    return Pool(
        planted=planted,
        references=names_of(stands),
        slices=slices,
        differences=differences.to(torch.float64),
        team=base.returns,
        replaced=worlds.all_replaced(margin),
        room=_headroom(planted, seeds_from(_ROOM_SEEDS + shift, sizes.room)),
        effort=tuple(measure_effort(base, planted.env.spec)),
        taken=base.taken,
        length=base.env_steps / len(margin),
        env_steps=worlds.env_steps,
    )


def _headroom(planted: PlantedTeam, seeds: Int[Tensor, " try"]) -> Float[Tensor, "agent try"]:
    """What the team gains with a good member in each one's place; exactly 0 for those that are good."""
    agents = [agent for agent, member in enumerate(planted.members) if member != "good"]
    room = torch.zeros(len(planted.members), len(seeds), dtype=torch.float64)
    if agents:
        worlds = Worlds(planted.env, planted.team, [planted.good])
        room[agents] = -worlds.differences(agents, seeds)[:, 0].to(torch.float64)
    return room
