"""What the estimators work on: games, which give a value to every coalition, and `Credit`, which is what they return.

A coalition is a row of booleans: True agents keep their policy, the others follow the reference (no-op, random, a
checkpoint; always named). A *function* game is any callable from (m, n) coalitions to (m,) values. An *episode* game
plays: coalition C on episode k gives that episode's team return, and the same episode index means the same seeds for
every coalition (common random numbers), so differences between coalitions are paired.
"""

import math
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class CoalitionGame(Protocol):
    """v(C) of each coalition; deterministic."""

    def __call__(self, coalitions: Bool[Tensor, "coalition agent"], /) -> Float[Tensor, " coalition"]: ...


@runtime_checkable
class Simulate(Protocol):
    """Team returns of each coalition on each episode, and the env steps it took to play them."""

    def __call__(
        self, coalitions: Bool[Tensor, "coalition agent"], episodes: Int[Tensor, " episode"], /
    ) -> tuple[Float[Tensor, "coalition episode"], int]: ...


@dataclass(frozen=True)
class Reference:
    """What absent agents do instead of their policy. A credit figure means nothing without it."""

    name: str
    """As it is asked for: "noop", "random", "peer:agent_1", ..."""
    words: str
    """What it does, in a sentence's half."""
    content: bytes
    """All that its behaviour depends on: actions, probabilities, weights."""

    @property
    def digest(self) -> str:
        """12 hex digits of the content, the same on every machine: two references with the same digest act alike."""
        return sha256(self.content).hexdigest()[:12]


@dataclass(frozen=True)
class Credit:
    """Each agent's part of the team's value, with its error and what exactly was estimated."""

    value: Float[Tensor, " agent"]
    """The estimate, in `unit`."""
    low: Float[Tensor, " agent"] | None
    """Lower end of each agent's own 95% interval (or the confidence asked for); None where the value is exact."""
    high: Float[Tensor, " agent"] | None
    """Upper end."""
    estimand: str
    """What the value estimates, in words."""
    method: str
    """How: "exact Shapley value", "leave-one-out", ..."""
    reference: str
    """What absent agents do."""
    unit: str
    """Unit of `value`."""
    total: float
    """v(N) - v(empty) as measured; Shapley values add up to it (sampled stratified: on average), leave-one-out
    values need not. NaN where v(empty) was not played."""
    evaluations: int
    """Coalition values computed for this estimate: distinct coalitions, times their episodes in an episode game."""
    episodes: int
    """Paired episodes behind the estimate; 0 for a function game."""
    env_steps: int
    """Joint env steps played for this estimate; 0 for a function game."""
    resampled: str
    """What the interval counts as chance: episodes, random orders, nothing; and by which bound."""
    approximate: bool
    """True where the interval's coverage holds for many samples only (t); False where it is exact or guaranteed."""
    reference_digest: str = field(default="", kw_only=True)
    """`Reference.digest` of what absent agents did; "" where nobody said."""


def coalition_masks(coalitions: Bool[Tensor, "coalition agent"]) -> Int[Tensor, " coalition"]:
    """Each coalition as an integer: bit i is set where agent i is in."""
    return (coalitions.to(torch.int64) << torch.arange(coalitions.shape[1])).sum(1)


def all_coalitions(num_agents: int) -> Bool[Tensor, "coalition agent"]:
    """All 2^n coalitions; the row's index is its mask, so row 0 is empty and the last row is everyone."""
    return (torch.arange(2**num_agents).unsqueeze(1) >> torch.arange(num_agents)) & 1 == 1


def without_each(num_agents: int) -> Bool[Tensor, "coalition agent"]:
    """n + 1 coalitions: row i is everyone but agent i, the last row is everyone."""
    return torch.cat([~torch.eye(num_agents, dtype=torch.bool), torch.ones(1, num_agents, dtype=torch.bool)])


def check_num_agents(num_agents: int) -> None:
    """Refuses a team that has no coalitions, or more than a mask holds."""
    if not 1 <= num_agents <= 62:
        raise ValueError(f"num_agents is {num_agents}; a coalition game has 1 to 62 agents")


LARGEST_EXACT = 12


def refuse_enumeration(num_agents: int) -> None:
    """ValueError for a team whose 2^n coalitions are too many to enumerate: how many there are, and what to do instead."""
    check_num_agents(num_agents)
    if num_agents > LARGEST_EXACT:
        raise ValueError(
            f"{num_agents} agents have 2^{num_agents} = {2**num_agents:,} coalitions; exact values are computed for up to "
            f"{LARGEST_EXACT} agents ({2**LARGEST_EXACT:,} coalitions). "
            f"Sample instead: shapley(game, {num_agents}, budget=...) of a function, "
            f"shapley(game, {num_agents}, episodes=..., rings=16) of episodes"
        )


def _checked(values: Tensor, shape: tuple[int, ...], meaning: str) -> Tensor:
    """`values` (a tensor, an array or nested lists) as float64, after a plain sentence about what is wrong with them."""
    values = torch.as_tensor(values)
    if tuple(values.shape) != shape:
        raise ValueError(f"the game returned shape {tuple(values.shape)}; expected {shape}: {meaning}")
    if not bool(values.isfinite().all()):
        raise ValueError("the game returned NaN or infinity for some coalition; credit needs a finite value for every coalition")
    return values.to(torch.float64)


class CachedGame:
    """A function game that asks for each coalition once; it counts the coalitions evaluated."""

    def __init__(self, game: CoalitionGame, num_agents: int):
        check_num_agents(num_agents)
        self.num_agents = num_agents
        self.evaluations = 0
        self._game = game
        self._known: dict[int, float] = {}

    def __call__(self, coalitions: Bool[Tensor, "coalition agent"], /) -> Float[Tensor, " coalition"]:
        """v(C) of each row; all unknown coalitions go to the game in one call."""
        masks = coalition_masks(coalitions).tolist()
        fresh = {mask: row for row, mask in enumerate(masks) if mask not in self._known}
        if fresh:
            asked = coalitions[list(fresh.values())]
            values = _checked(self._game(asked), (len(fresh),), "one value per coalition")
            self._known.update(zip(fresh, values.tolist(), strict=True))
            self.evaluations += len(fresh)
        return torch.tensor([self._known[mask] for mask in masks], dtype=torch.float64)


class EpisodeGame:
    """A game whose values are team returns of paired episodes; nothing is played twice.

    `env_steps` counts what `simulate` reports, `evaluations` the (coalition, episode) pairs played, `lowest` and
    `highest` the extreme returns seen.
    """

    def __init__(self, simulate: Simulate, num_agents: int):
        """`simulate(coalitions, episodes) -> (returns (coalition, episode), env steps)`; the same index means the same seeds."""
        check_num_agents(num_agents)
        self.num_agents = num_agents
        self.env_steps = 0
        self.evaluations = 0
        self.lowest, self.highest = math.inf, -math.inf
        self._simulate = simulate
        self._known: dict[int, dict[int, float]] = {}

    def play(self, coalitions: Bool[Tensor, "coalition agent"], episodes: Int[Tensor, " episode"]) -> Float[Tensor, "coalition episode"]:
        """The team return of each coalition on each episode. Coalitions that lack the same episodes are played in one call."""
        masks, numbers = coalition_masks(coalitions).tolist(), episodes.tolist()
        lacking: dict[tuple[int, ...], dict[int, int]] = {}
        for row, mask in enumerate(masks):
            known = self._known.setdefault(mask, {})
            if absent := tuple(number for number in dict.fromkeys(numbers) if number not in known):
                lacking.setdefault(absent, {})[mask] = row
        for absent, rows in lacking.items():
            self._play_fresh(rows, coalitions, absent)
        return torch.tensor([[self._known[mask][number] for number in numbers] for mask in masks], dtype=torch.float64)

    def _play_fresh(self, rows: dict[int, int], coalitions: Tensor, absent: tuple[int, ...]) -> None:
        returns, env_steps = self._simulate(coalitions[list(rows.values())], torch.tensor(absent, dtype=torch.int64))
        returns = _checked(returns, (len(rows), len(absent)), "one team return per coalition and episode")
        for mask, row in zip(rows, returns.tolist(), strict=True):
            self._known[mask].update(zip(absent, row, strict=True))
        self.evaluations += returns.numel()
        self.env_steps += env_steps
        self.lowest, self.highest = min(self.lowest, float(returns.min())), max(self.highest, float(returns.max()))


def episode_indices(episodes: "Int[Tensor, ' episode'] | int | None") -> Int[Tensor, " episode"]:
    """The episodes to play: the indices given, or the first `episodes` of them."""
    if episodes is None:
        raise ValueError("an episode game needs `episodes`: how many paired episodes to play, or their indices")
    indices = torch.arange(episodes) if isinstance(episodes, int) else episodes.to(torch.int64)
    if len(indices) < 2:
        raise ValueError(f"{len(indices)} episode(s) give no interval: play at least 2 (64 is a good start)")
    if len(indices.unique()) < len(indices):
        raise ValueError("`episodes` names the same episode twice; a repeated episode is not new evidence")
    return indices
