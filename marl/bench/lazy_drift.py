"""Drift: an agent turns into one that does nothing at a known evaluation of a training run; how many evaluations until the alarm?

A *watcher* looks once per evaluation and is fed by a function that plays pairs of the team as it then is, on episodes never played
before. Any watcher can be measured: `look` must say which agents it now holds for lazy. Ours is the one of `--watch-credit`
(watch.py), with its budget of 15% of the training's env steps.

Tasks: an additive coalition game, foraging with three good players, and foraging with four, where each is nearly redundant: its effect
lies within a factor 2 of the margin before it turns, so the watcher is right to be in doubt already.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..evaluate import seeds_from
from ..watch import begin_watch, observe
from ..worlds import Worlds
from .planted import PlantedTeam, draw_coalition, foraging_team

ALPHA = 0.05
PAIRS, OVERHEAD, MARGIN = 8, 0.15, 0.25
TURNS_AT, LONGEST, EVERY = 8, 8, 50_000
"""The evaluation at which the agent has turned, how many there are from it on, and training env steps between two (a run of a million)."""
_SEEDS, _GAIN_EPISODES = 140_000_000, 64
TASKS = ("coalition", "foraging, 3 players", "foraging, 4 players")
Play = Callable[[tuple[int, ...], int], tuple[Tensor, int]]
"""play(agents, pairs) -> differences (chosen agent, reference, pair), and the env steps they took."""


class Watcher(Protocol):
    """Whoever looks."""

    def look(self, play: Play, delta: Float[Tensor, " reference"], bound: float, budget: float) -> Sequence[int]:
        """One look at the team as it is, for at most `budget` env steps beyond the look itself: the agents it holds for lazy."""
        ...


class CreditWatch:
    """The watcher of `--watch-credit`."""

    def __init__(self, num_agents: int, num_references: int):
        self.state = begin_watch(num_agents, num_references)

    def look(self, play: Play, delta: Float[Tensor, " reference"], bound: float, budget: float) -> Sequence[int]:
        self.state, _ = observe(self.state, play, delta, bound=bound, alpha=ALPHA, pairs=PAIRS, test_budget=budget)
        return [agent for agent, status in enumerate(self.state.status) if status == "lazy"]


@dataclass(frozen=True)
class Drift:
    """What came of it on one task."""

    task: str
    trials: int
    found: int
    """Trials in which the agent was held for lazy after it had turned."""
    median_delay: float | None
    """Evaluations from the first that the turned agent plays to the alarm, that one counted: 1 is at once."""
    longest_delay: int | None
    false_alarms: int
    """Agents held for lazy though they had not turned, over all trials and evaluations."""
    overhead: float
    """The watch's env steps as a share of the training's."""


def measure_drift(trials: int, seed: int, say: Callable[[str], None] = lambda text: None) -> list[Drift]:
    """Our watcher on each task."""
    found = []
    for task in TASKS:
        say(f"drift: {trials} trials on {task}")
        found.append(drift_of(task, trials, seed))
    return found


def drift_of(task: str, trials: int, seed: int, make: Callable[[int, int], Watcher] = CreditWatch) -> Drift:
    """`trials` training runs in which one agent turns; `make(num_agents, num_references)` gives each its watcher."""
    outcomes = [_trial(*_teams(task, seed * 100 + trial), make, seed * 100 + trial) for trial in range(trials)]
    delays = sorted(outcome.delay for outcome in outcomes if outcome.delay is not None)
    return Drift(
        task=task,
        trials=trials,
        found=len(delays),
        median_delay=float(torch.tensor(delays, dtype=torch.float64).quantile(0.5)) if delays else None,
        longest_delay=delays[-1] if delays else None,
        false_alarms=sum(outcome.false_alarms for outcome in outcomes),
        overhead=sum(outcome.overhead for outcome in outcomes) / trials,
    )


@dataclass(frozen=True)
class _Outcome:
    delay: int | None
    false_alarms: int
    overhead: float


def _teams(task: str, number: int) -> tuple[PlantedTeam, PlantedTeam, int]:
    """The team before, the team after, and who turned."""
    if task != "coalition":
        members = ["good"] * (4 if task == TASKS[-1] else 3)
        agent = number % len(members)
        turned = ["noop" if i == agent else member for i, member in enumerate(members)]
        return foraging_team(members), foraging_team(turned), agent
    generator = torch.Generator().manual_seed(number)
    after = draw_coalition("additive", generator, lazy="noop")
    before = draw_coalition("additive", torch.Generator().manual_seed(number), lazy="good")
    return before, after, after.members.index("noop")


def _trial(before: PlantedTeam, after: PlantedTeam, agent: int, make: Callable[[int, int], Watcher], number: int) -> _Outcome:
    spec = before.env.spec
    assert spec.return_range is not None
    dummies = {i for i, role in enumerate(before.roles) if role == "dummy"}
    low, high = spec.return_range
    policies = [stand.policy for stand in before.stands]
    watcher, seed, spent, alarms = make(spec.num_agents, len(policies)), _SEEDS + number * 1_000_000, 0, 0
    for evaluation in range(1, TURNS_AT + LONGEST):
        planted = before if evaluation < TURNS_AT else after
        worlds = Worlds(planted.env, planted.team, policies)
        gain = worlds.gains(seeds_from(seed, _GAIN_EPISODES)).mean(-1)
        seed, worlds.env_steps = seed + _GAIN_EPISODES, 0

        def play(agents: tuple[int, ...], pairs: int, worlds: Worlds = worlds) -> tuple[Tensor, int]:
            nonlocal seed
            already = worlds.env_steps
            differences = worlds.differences(agents, seeds_from(seed, pairs))
            seed += pairs
            return differences, worlds.env_steps - already

        look = PAIRS * (1 + spec.num_agents * len(policies)) * (spec.episode_limit or 1)
        budget = OVERHEAD * evaluation * EVERY - spent - look
        held = set(watcher.look(play, MARGIN * gain / spec.num_agents, high - low, budget))
        spent += worlds.env_steps
        if agent in held and evaluation >= TURNS_AT:
            return _Outcome(evaluation - TURNS_AT + 1, alarms, spent / (evaluation * EVERY))
        alarms += len(held - dummies)
    return _Outcome(None, alarms, spent / ((TURNS_AT + LONGEST - 1) * EVERY))
