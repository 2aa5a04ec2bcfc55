"""Two worlds that are one up to some env step of an episode: each played on, both compared time step by time step.

A world is a sequence of `Tick`s. Every random number is a function of (seed, episode, step, stream), so two worlds of one
episode draw the same ones, whatever is done in them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from ..envs.base import Step, TeamEnv, View
from ..envs.randomness import Clock
from .evaluate import refuse_endless
from .policies import Team, team_action


@dataclass(frozen=True)
class World:
    """One of the two episodes."""

    team_return: float
    """Undiscounted team return, raw reward units."""
    return_from_step: float
    """The part of it that is earned by the joint actions from step T on."""
    env_steps: int
    """Length of the episode."""
    end: str
    """terminated or truncated."""


@dataclass(frozen=True)
class Standing:
    """Where a world stands before its agents act."""

    number: int
    """Env steps done."""
    state: Any
    view: View
    memory: Tensor
    clock: Clock
    step: Step | None = None
    """What led here; None at the start of the episode."""

    @property
    def end(self) -> str:
        """terminated, truncated, or "" while the episode goes on."""
        if self.step is None:
            return ""
        return "terminated" if bool(self.step.terminated) else "truncated" if bool(self.step.truncated) else ""


@dataclass(frozen=True)
class Tick:
    """One time step of a world: where it stands, and the joint action about to be taken (None at the end)."""

    at: Standing
    action: Tensor | None


Change = Callable[[Standing, Tensor], Tensor]
"""What replaces a joint action."""
Watch = Callable[[Iterator[tuple[Tick, Tick]]], None]
"""Goes through both worlds, a pair of time steps at a time; the one that ended first stays at its end."""


def start(env: TeamEnv, team: Team, seed: int) -> Standing:
    """The first moment of the episode of `seed`."""
    seeds = torch.tensor([seed])
    state, view = env.reset(seeds)
    return Standing(0, state, view, team.utility.initial_memory(1), Clock.start(seeds))


@torch.no_grad()
def ticks(env: TeamEnv, team: Team, at: Standing, change: Change = lambda at, action: action) -> Iterator[Tick]:
    """One world from where it stands to the end of its episode, without exploration."""
    while True:
        if at.end:
            yield Tick(at, None)
            return
        action, memory = team_action(team, at.view, at.memory, at.clock)
        action = change(at, action)
        yield Tick(at, action)
        state, step, view = env.step(at.state, action, autoreset=False)
        at = Standing(at.number + 1, state, view, memory, at.clock.tick(), step)
        refuse_endless(env, torch.tensor([not at.end]), at.clock)


@dataclass
class Held:
    """A `Change`: agent `agent` takes `action` at `hold` env steps from `first` on, wherever it is available."""

    agent: int
    action: int
    first: int
    hold: int
    count: int = field(default=0, init=False)
    """Env steps on which it was taken."""

    def __call__(self, at: Standing, action: Tensor) -> Tensor:
        if not self.first <= at.number < self.first + self.hold:
            return action
        if not bool(at.view.available[0, self.agent, self.action] & at.view.alive[0, self.agent]):
            return action
        self.count += 1
        changed = action.clone()
        changed[0, self.agent] = self.action
        return changed


class Tally:
    """What both worlds earn and where they part, pair by pair."""

    def __init__(self, agent: int, before: float):
        self.agent, self.before = agent, before
        self.earned = [0.0, 0.0]
        self.length, self.ends = [0, 0], ["", ""]
        self.worlds_part: int | None = None
        self.others_react: tuple[int, int] | None = None

    def add(self, pair: tuple[Tick, Tick], *, first: bool) -> None:
        """Count one pair; `first`: the one at which the worlds are divided, whose reward was earned before."""
        for world, tick in enumerate(pair):
            if not first and not self.ends[world] and tick.at.step is not None:
                self.earned[world] += float(tick.at.step.reward)
            self.length[world], self.ends[world] = tick.at.number, tick.at.end
        mine, its = pair
        number = max(mine.at.number, its.at.number)
        if self.worlds_part is None and not alike(mine.at, its.at):
            self.worlds_part = number
        if self.others_react is None and mine.action is not None and its.action is not None:
            others = mine.action[0] != its.action[0]
            others[self.agent] = False
            if others.any():
                self.others_react = number, int(others.nonzero()[0])

    def world(self, which: int) -> World:
        earned = self.earned[which]
        return World(self.before + earned, earned, self.length[which], self.ends[which])


def alike(one: Standing, other: Standing) -> bool:
    """Whether nobody could tell the two apart: views, team reward, and whether the episode goes on."""
    views = zip(vars(one.view).values(), vars(other.view).values(), strict=True)
    if one.end != other.end or not all(torch.equal(mine, its) for mine, its in views):
        return False
    return one.step is other.step or (one.step is not None and other.step is not None and torch.equal(one.step.reward, other.step.reward))


def pairs(as_played: Iterator[Tick], replaced: Iterator[Tick], tally: Tally) -> Iterator[tuple[Tick, Tick]]:
    """Both worlds step by step, counted on the way."""
    last: tuple[Tick, Tick] | None = None
    for mine, its in zip_longest(as_played, replaced):
        pair = (last[0] if mine is None else mine, last[1] if its is None else its) if last else (mine, its)
        tally.add(pair, first=last is None)
        yield pair
        last = pair
