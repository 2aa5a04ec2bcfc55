"""Smaller images, fewer decisions: SuperSuit's wrappers as options of any ParallelEnv whose agents observe images.

`color_reduction` (full, R, G or B), `resize` (WIDTHxHEIGHT) and `frame_skip` (N frames per env step, rewards summed) become
`color_reduction_v0`, `resize_v1` (linear interpolation) and `frame_skip_v0`, in this order. A 457 x 120 colour image of
164,520 bytes is 1,764 bytes as 42x42 grey.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import BaseParallelWrapper

from .errors import UnsupportedTask

IMAGE_OPTIONS = ("color_reduction", "resize", "frame_skip")
_COLOURS = {text.lower(): text for text in ("full", "R", "G", "B")}
_OFF = (None, "none", "None")


class LivingOnly(BaseParallelWrapper):
    """Leaves out the actions of agents that have died: `frame_skip_v0` repeats theirs too until the skipped frames are over."""

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        return self.env.step({agent: action for agent, action in actions.items() if agent in self.env.agents})


@dataclass(frozen=True)
class ImageOptions:
    """What is done to each environment before it is read; None leaves it alone."""

    color_reduction: str | None = None
    """full: the grey value (.299 R + .587 G + .114 B); R, G or B: that channel alone."""
    resize: tuple[int, int] | None = None
    """(width, height) in pixels."""
    frame_skip: int | None = None
    """Frames of the environment in one env step; the joint action is repeated, rewards are summed."""

    @property
    def reduces(self) -> bool:
        """Images are made smaller, so `env.state()`, which would be the full screen, is not wanted either."""
        return self.color_reduction is not None or self.resize is not None

    def env_steps(self, frames: int | None) -> int | None:
        """The env steps in which that many frames are over."""
        return None if frames is None else -(-frames // (self.frame_skip or 1))

    def wrap(self, env: Any, name: str) -> Any:
        """`env` in SuperSuit's wrappers; UnsupportedTask where an agent observes no (colour) image."""
        if self == ImageOptions() or not hasattr(env, "possible_agents") or isinstance(env, AECEnv):
            return env  # what is no ParallelEnv at all is refused elsewhere
        if not isinstance(env, ParallelEnv):
            raise UnsupportedTask(
                f"{name} gives a {type(env).__name__} that is not derived from pettingzoo.ParallelEnv, as SuperSuit needs it.",
                f"Derive it, or leave {', '.join(IMAGE_OPTIONS)} out.",
            )
        for agent in env.possible_agents if self.reduces else ():
            self._check_image(env.observation_space(agent), f"{agent} of {name}")
        import supersuit

        if self.color_reduction is not None:
            env = supersuit.color_reduction_v0(env, mode=self.color_reduction)
        if self.resize is not None:
            width, height = self.resize
            env = supersuit.resize_v1(env, x_size=width, y_size=height, linear_interp=True)
        if self.frame_skip is not None:
            # SuperSuit asks the environment's own generator for the number of frames even where there is only one answer
            # (numpy then draws nothing). An environment without one gets one that is never drawn from.
            if not hasattr(env.unwrapped, "np_random"):
                vars(env.unwrapped)["np_random"] = np.random.default_rng(0)
            env = supersuit.frame_skip_v0(LivingOnly(env), self.frame_skip)
        return env

    @property
    def _off(self) -> str:
        """The options that switch off what is asked for, by the user or by a preset."""
        given = (self.resize is not None and "--env.resize none", self.color_reduction is not None and "--env.color-reduction none")
        return " ".join(text for text in given if text)

    def _check_image(self, space: spaces.Space, who: str) -> None:
        option = "resize" if self.color_reduction is None else "color-reduction"
        shape = space.shape or ()
        is_image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(shape) in (2, 3)
        if not is_image:
            shown = f"{type(space).__name__} of shape {shape}, {space.dtype}"
            if isinstance(space, spaces.Dict):
                shown = f"Dict of {', '.join(space)}"
            raise UnsupportedTask(
                f"--env.{option} is for images of bytes (height, width, channels); {who} observes a {shown}.",
                f"Use {self._off}.",
            )
        if self.color_reduction is None and len(shape) == 3 and shape[2] not in (1, 3, 4):
            raise UnsupportedTask(
                f"--env.resize is for images of 1, 3 or 4 channels, which come last; {who} observes one of shape {shape}.",
                "Use --env.resize none.",
            )
        if self.color_reduction is not None and (len(shape) != 3 or shape[2] != 3):
            raise UnsupportedTask(
                f"--env.color-reduction is for images of three colours; {who} observes one of shape {shape}.",
                "Use --env.color-reduction none.",
            )


def split_image_options(options: dict[str, Any], own: Collection[str] = ()) -> tuple[ImageOptions, dict[str, Any]]:
    """The image options among `options`, and the rest; a name in `own` is the task's own option and stays with the rest.

    Raises ValueError for a value that makes no sense, with one that does.
    """
    ours = {name: options[name] for name in IMAGE_OPTIONS if name in options and name not in own}
    rest = {name: value for name, value in options.items() if name not in ours}
    given = {name: value for name, value in ours.items() if value not in _OFF}
    read: dict[str, Callable[[Any], Any]] = {"color_reduction": _read_colour, "resize": _read_size, "frame_skip": _read_frames}
    return ImageOptions(**{name: read[name](value) for name, value in given.items()}), rest


def _read_colour(value: Any) -> str:
    if str(value).lower() not in _COLOURS:
        raise ValueError(f"--env.color-reduction {value!r} is not one of {', '.join(_COLOURS.values())} (or none)")
    return _COLOURS[str(value).lower()]


def _read_size(value: Any) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", str(value))
    if match is None:
        example = f"{value}x{value}" if re.fullmatch(r"[1-9]\d*", str(value)) else "42x42"
        raise ValueError(f"--env.resize {value!r} is not WIDTHxHEIGHT in pixels, both at least 1: write for example {example}")
    return int(match[1]), int(match[2])


def _read_frames(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[1-9]\d*", str(value)):
        raise ValueError(f"--env.frame-skip {value!r} is not a number of frames: 1 is every frame, 4 decides on every fourth")
    return int(value)
