"""What if one agent had acted otherwise: one episode in two worlds that share every random number.

Both worlds are one up to env step T. Then one goes on as played, and in the other agent i takes action a instead of its own
at T, and at the `hold - 1` steps after it where a is available; all others, and i afterwards, act by their own policies on
what they then see. Streams are keyed by (seed, episode, step), so both worlds draw the same numbers, and

    difference = R(what if) - R(as played),

R the undiscounted team return, is the effect of that choice in this one episode, not an average over episodes. With the
action that was taken anyway (hold 1) it is exactly 0. A Python environment draws from a stream of its own, which both worlds go on
with from the same place: they draw the same numbers as long as they draw equally often.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..envs.base import TeamEnv, TeamSpec, View
from ..envs.delayed_reward import DelayedTeam
from ..envs.native import NativeEnv
from ..envs.pettingzoo import PettingZooTeam
from .errors import ConfigError, suggest
from .evaluate import CREDIT_SEEDS
from .policies import Team, agent_index
from .two_worlds import Held, Standing, Tally, Tick, Watch, World, pairs, start, ticks

if TYPE_CHECKING:
    from .run import Run

_STILL_WORK = "marl credit RUN --method difference or shapley plays whole episodes, which need only seeds"


@dataclass(frozen=True)
class WhatIf:
    """What became of one replaced action."""

    seed: int
    """The episode's seed, as `marl eval --seeds` takes it."""
    step: int
    """Env steps done when the worlds are divided, T."""
    agent: str
    action: int
    """What it does instead."""
    taken: int
    """What it did at T as played."""
    hold: int
    """Env steps for which the action was asked for."""
    held: int
    """Those of them on which it was available and the episode went on."""
    as_played: World
    replaced: World
    worlds_part: int | None
    """The first env step after T at which an observation, the state, the team reward or the end differs; None: at none."""
    others_react: int | None
    """The first env step at which another agent acts otherwise; None: at none."""
    first_to_react: str | None
    """That agent (of several, the first in the task's order)."""
    way: str
    """How the second world was made: rows (of tensors), copy (of a live environment), replay, or select (a TeamEnv of one's own)."""
    pictures: Path | None = None
    """Both worlds side by side."""
    frames: int = 0
    no_pictures: str = ""
    """Why there are none though they were asked for."""

    @property
    def difference(self) -> float:
        """What the team gains by the replaced action, in raw reward units."""
        return self.replaced.team_return - self.as_played.team_return


Viewer = Callable[[Tick, int, float], Watch | None]
"""Gives what goes through the worlds (None: nobody) from where they are divided, the new action and the return before."""


def nobody(tick: Tick, action: int, before: float) -> None:
    """Looks at neither world."""


def divide(env: TeamEnv, at: Standing) -> tuple[Standing, str]:
    """A second world that stands where this one does, and how it was made.

    Raises:
        ConfigError: the environment can neither be copied nor replayed exactly.
    """
    way, why, inner = "rows" if isinstance(env, NativeEnv) else "select", "", env
    while isinstance(inner, DelayedTeam):
        inner = inner.inner
    if isinstance(inner, PettingZooTeam):
        way, why = ("copy", "") if inner.copy_check.exact else ("replay", f"; a copy would not be exact either: {inner.copy_check.reason}")
    try:
        return replace(at, state=env.select(at.state, torch.tensor([0]))), way
    except ValueError as error:
        raise ConfigError(f"no second world: {error}{why}", remedy=_STILL_WORK) from error


def action_number(text: str | int, agent: int, at: View, spec: TeamSpec) -> int:
    """The action that a name or a number means; ConfigError where the agent has none such, or cannot take it now."""
    names: tuple[str, ...] = spec.action_names[agent] if spec.action_names else ()
    count, name = len(names) or spec.num_actions, spec.agents[agent]
    listing = ", ".join(names) if names else f"0 to {count - 1}"
    if str(text) in names:
        number = names.index(str(text))
    elif str(text).isascii() and str(text).isdecimal() and int(text) < count:
        number = int(text)
    else:
        raise ConfigError(f'{name} has no action "{text}".{suggest(str(text), names)} Actions: {listing}.', remedy="a name or its number")
    if not bool(at.alive[0, agent]):
        raise ConfigError(f"{name} is not alive at this step, so it takes no action", remedy="choose an earlier --step")
    if not bool(at.available[0, agent, number]):
        free = ", ".join(_shown(names, i) for i in at.available[0, agent].nonzero().squeeze(-1).tolist())
        raise ConfigError(f"refused: {_shown(names, number)} is not available to {name} at this step. Available: {free}.")
    return number


def _shown(names: tuple[str, ...], action: int) -> str:
    return names[action] if action < len(names) else str(action)


@torch.no_grad()
def divided(env: TeamEnv, team: Team, *, seed: int, step: int, agent: int, action: str | int, hold: int, watch: Viewer) -> WhatIf:
    """Play the episode of `seed` and divide it at `step`."""
    played, before = ticks(env, team, start(env, team, seed)), 0.0
    tick = next(played)
    while tick.at.number < step and tick.action is not None:
        tick = next(played)
        before += float(tick.at.step.reward) if tick.at.step is not None else 0.0
    if tick.action is None:
        raise ConfigError(
            f"--step {step}: this episode is {tick.at.end} after {tick.at.number} env steps", remedy=f"--step 0 to {tick.at.number - 1}"
        )
    number = action_number(action, agent, tick.at.view, env.spec)
    watcher = watch(tick, number, before)
    other, way = divide(env, tick.at)
    held, tally = Held(agent, number, step, hold), Tally(agent, before)
    both = pairs(chain([tick], played), ticks(env, team, other, held), tally)
    if watcher is not None:
        watcher(both)
    for _ in both:  # whatever was not watched
        pass
    reacts = tally.others_react
    return WhatIf(
        seed=seed,
        step=step,
        agent=env.spec.agents[agent],
        action=number,
        taken=int(tick.action[0, agent]),
        hold=hold,
        held=held.count,
        as_played=tally.world(0),
        replaced=tally.world(1),
        worlds_part=tally.worlds_part,
        others_react=None if reacts is None else reacts[0],
        first_to_react=None if reacts is None else env.spec.agents[reacts[1]],
        way=way,
    )


def what_if(
    run: "Run | str",
    *,
    episode: int,
    step: int,
    agent: str,
    action: str | int,
    hold: int = 1,
    out: str | Path | None = None,
    scale: int | float = 1.0,
) -> WhatIf:
    """Play one episode of a run's team twice: as it is, and with one agent's action replaced.

    Args:
        episode: which of the episodes that `measure_credit` plays, from 0.
        step: env step at which the action is replaced, from 0.
        agent: the agent's name; a planted member may be named too.
        action: by name or number.
        hold: env steps for which the action is held; where it is not available the agent's own is taken.
        out: .webp, .gif, or .png (a strip of moments) with both worlds side by side; None: no pictures.
        scale: of the pictures' size.

    Raises:
        ConfigError: a bad argument, an action that is not available, an environment with no second world. RunNotFound: no such run.
    """
    from .run import load, make_env
    from .whatif_pictures import Pictures

    for name, value, least in (("--episode", episode, 0), ("--step", step, 0), ("--hold", hold, 1)):
        if value < least:
            raise ConfigError(f"{name} {value} must be at least {least}")
    run = load(run)
    asked = {"seed": CREDIT_SEEDS + episode, "step": step, "action": action, "hold": hold}
    if out is None:
        env = run.env if run.config.workers == 0 else make_env(replace(run.config, workers=0))
        try:
            return divided(env, run.team, agent=agent_index(agent, env.spec), watch=nobody, **asked)
        finally:
            if env is not run.env:
                env.close()
    with Pictures(run, Path(out), scale=scale) as pictures:
        pictures.agent, pictures.step = agent_index(agent, pictures.env.spec), step
        found = divided(pictures.env, run.team, agent=pictures.agent, watch=pictures.watch, **asked)
    return replace(found, pictures=pictures.written, frames=pictures.frames, no_pictures=pictures.refusal)
