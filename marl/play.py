"""One episode of a run's team as moments with pictures, and as a film in which every agent is marked.

The episode is one of `marl eval`: the same team, seeds and random numbers, so its return is the one reported there.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from ..envs.base import Step, TeamEnv, View
from ..envs.look import look
from ..envs.picture import Picture
from ..envs.randomness import Clock
from .errors import BlankFrame, ConfigError
from .evaluate import EVALUATION_SEEDS
from .film import Reel, check_path, write_film, write_picture
from .overlay import Cast, Moment, compose, same_size
from .policies import Team, team_action

if TYPE_CHECKING:
    from .run import Run

LONGEST_FILM = 1_000
"""Env steps after which a film is cut when nothing else is said."""
_DRAWN_SIDE = 480


@dataclass(frozen=True)
class Film:
    """What was played and where it lies."""

    path: Path
    frames: int
    size_bytes: int
    seed: int
    """The episode's seed, as `marl eval --seeds` takes it."""
    env_steps: int
    team_return: float
    """Undiscounted team return, raw reward units, up to the last step played."""
    agent_return: dict[str, float] | None
    """The agents' own returns, None where all are paid the same."""
    end: str
    """terminated, truncated, or cut (the episode goes on after the film)."""
    positions_known: bool
    """Whether agents are marked in the pictures, besides the legend."""


@contextmanager
def without_display() -> Iterator[None]:
    """Lets pygame draw into memory where nobody has chosen a display for it; must be entered before pygame is first used."""
    chosen = {name: os.environ.get(name) for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER")}
    for name in chosen:
        os.environ.setdefault(name, "dummy")
    try:
        yield
    finally:
        for name, value in chosen.items():
            if value is None:
                del os.environ[name]


def picture_env(run: "Run") -> TeamEnv:
    """The run's task, ready to give pictures."""
    from .run import make_env

    return make_env(replace(run.config, workers=0, env={**run.config.env, "render_mode": "rgb_array"}))


@torch.no_grad()
def moments(env: TeamEnv, team: Team, seed: int, *, steps: int = LONGEST_FILM, size: int = _DRAWN_SIDE) -> Iterator[Moment]:
    """The episode of `seed`, the team acting greedily: its first moment, then one per env step, `steps` at the most.

    Args:
        env: from `picture_env`, or another task the team can play.
        size: side in pixels of pictures that are drawn here.

    Raises:
        CannotRender: the task gives no picture. BlankFrame: it gives one of one single colour.
    """
    seeds = torch.tensor([seed])
    state, view = env.reset(seeds)
    clock, memory = Clock.start(seeds), team.utility.initial_memory(1)
    step: Step | None = None
    last: tuple[int, ...] | None = None
    team_return, own = 0.0, torch.zeros(env.spec.num_agents, dtype=torch.float64)
    for number in range(steps + 1):
        action, memory = team_action(team, view, memory, clock)
        ended = step is not None and bool(step.terminated | step.truncated)
        now = None if ended else tuple(action[0].tolist())
        picture = look(env, state, now=now, last=last, size=size)
        refuse_blank(picture, env.spec.name, number)
        yield _moment(env, number, picture, now, view, step, team_return, own)
        if ended or number == steps:
            return
        state, step, view = env.step(state, action, autoreset=False)
        team_return += float(step.reward)
        if step.agent_reward is not None:
            own += step.agent_reward[0]
        clock, last = clock.tick(), now


def _moment(
    env: TeamEnv,
    number: int,
    picture: Picture,
    now: tuple[int, ...] | None,
    view: View,
    step: Step | None,
    team_return: float,
    own: torch.Tensor,
) -> Moment:
    paid_apart = env.spec.team_reward != "shared" and (step is None or step.agent_reward is not None)
    return Moment(
        step=number,
        picture=picture,
        now=now,
        alive=tuple(view.alive[0].tolist()),
        reward=0.0 if step is None else float(step.reward),
        team_return=team_return,
        agent_return=tuple(own.tolist()) if paid_apart else None,
        terminated=step is not None and bool(step.terminated),
        truncated=step is not None and bool(step.truncated),
    )


def refuse_blank(picture: Picture, task: str, step: int) -> None:
    pixels = picture.pixels
    if (pixels[0] == pixels[0, 0]).all() and (pixels == pixels[0, 0]).all():  # the first row alone settles it for most frames
        driver = os.environ.get("SDL_VIDEODRIVER", "not set")
        raise BlankFrame(
            f"{task}: the frame at step {step} is of one single colour {tuple(pixels[0, 0].tolist())}: its renderer drew nothing",
            remedy=f"SDL_VIDEODRIVER is {driver}; without a screen set it to dummy. If the task is your own, correct its render()",
        )


def cast_of(env: TeamEnv, team: Team, title: str) -> Cast:
    """What the legend says of this team."""
    spec = env.spec
    return Cast(title, spec.agents, team.planted, spec.action_names, spec.episode_limit)


def frames(
    run: "Run | str", *, episode: int = 0, seed: int | None = None, steps: int | None = None, scale: int | float = 1.0
) -> Iterator[tuple[Moment, Image.Image]]:
    """Each moment of an episode with its finished picture (arguments as `play`)."""
    from .run import open_run

    _check_numbers(episode, steps, scale)
    run = open_run(run)
    with without_display():
        env = picture_env(run)
        try:
            yield from _composed(env, run.team, run_title(run), episode_seed(episode, seed), steps, scale)
        finally:
            env.close()


def _composed(
    env: TeamEnv, team: Team, title: str, seed: int, steps: int | None, scale: int | float
) -> Iterator[tuple[Moment, Image.Image]]:
    cast, size = cast_of(env, team, title), None
    for moment in moments(env, team, seed, steps=LONGEST_FILM if steps is None else steps, size=max(1, round(_DRAWN_SIDE * scale))):
        image = compose(moment, cast, scale=scale)
        size = size or image.size
        yield moment, same_size(image, size)


def run_title(run: "Run") -> str:
    return f"{run.config.task}   {run.name} at {run.env_steps:,} env steps"


def episode_seed(episode: int, seed: int | None) -> int:
    """The seed of `marl eval`'s episode of this number, or `seed` itself."""
    return EVALUATION_SEEDS + episode if seed is None else seed


def play(
    run: "Run | str",
    out: str | Path | None = None,
    *,
    episode: int = 0,
    seed: int | None = None,
    steps: int | None = None,
    fps: int | float = 10.0,
    scale: int | float = 1.0,
) -> Film:
    """Play one episode of a run's team and write it as a film with every agent marked.

    Args:
        out: .webp or .gif; .png: one picture, the one after `steps` env steps or else from the middle. Default: a .webp in the run folder.
        episode: which of `evaluate`'s episodes.
        seed: the episode's seed instead, as `evaluate(seeds=...)` takes it.
        steps: cut after this many env steps (default: at 1,000).
        fps: pictures a second.
        scale: of the pictures' size; 1 is 480 pixels for what is drawn here, and up to 640 for frames of packages.

    Raises:
        ConfigError: a bad argument. CannotRender, BlankFrame: see `moments`. DiskError: the file cannot be written.
    """
    from .run import open_run

    run = open_run(run)
    chosen = episode_seed(episode, seed)
    path = run.folder / f"play-step_{run.env_steps}-seed_{chosen}.webp" if out is None else Path(out)
    if not 0 < fps <= 100:
        raise ConfigError(f"--fps {fps:g} must be above 0 and at most 100")
    check_path(path)
    shown: list[Moment] = []

    def pictures() -> Iterator[Image.Image]:
        for moment, image in frames(run, episode=episode, seed=seed, steps=steps, scale=scale):
            shown[:] = [moment]
            yield image

    reel = Reel(pictures())
    count = reel.n_frames
    if path.suffix.lower() == ".png":
        write_picture(reel.picture(count // 2 if steps is None else count - 1), path)
        count = 1
    else:
        write_film(reel, path, fps=fps)
    return _film(path, count, chosen, run.env.spec.agents, shown[0])


def _film(path: Path, count: int, seed: int, agents: Sequence[str], final: Moment) -> Film:
    own = final.agent_return
    return Film(
        path=path,
        frames=count,
        size_bytes=path.stat().st_size,
        seed=seed,
        env_steps=final.step,
        team_return=final.team_return,
        agent_return=None if own is None else dict(zip(agents, own, strict=True)),
        end="terminated" if final.terminated else "truncated" if final.truncated else "cut",
        positions_known=final.picture.places is not None,
    )


def _check_numbers(episode: int, steps: int | None, scale: int | float) -> None:
    if episode < 0:
        raise ConfigError(f"--episode {episode} must be at least 0", remedy="--episode N is the N-th episode of marl eval, from 0")
    if steps is not None and steps < 0:
        raise ConfigError(f"--steps {steps} must be at least 0")
    if not 0.25 <= scale <= 4:
        raise ConfigError(f"--scale {scale:g} must lie between 0.25 and 4")
