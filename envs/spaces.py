"""How one agent's Gymnasium spaces become rows of a tensor: flat observations, numbered actions.

Box observations are flattened, Discrete ones become one-hot, MultiBinary ones are taken as they are, and so are bytes that
hold small numbers (a uint8 Box bounded below 128); other bytes are pixels. A Dict holds `observation` and `action_mask`.
Discrete actions are counted from 0; MultiDiscrete ones are numbered in C order (the last part runs fastest) where there are
at most `MAX_JOINT_CHOICES`. What does not fit is refused by name.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces

from .errors import ContractBroken, UnsupportedTask

MAX_JOINT_CHOICES = 64


@dataclass(frozen=True)
class ObsPlan:
    """How one agent's observation is written into its row."""

    shape: tuple[int, ...]
    """Shape of the array as the environment gives it; () for a Discrete one."""
    width: int
    """Real features; the rest of the row is padding."""
    is_image: bool
    """uint8 pixels: stored raw where every agent has them, else scaled to [0, 1]."""
    in_dict: bool
    """The observation comes as Dict{observation, action_mask}."""
    one_hot_from: int | None = None
    """The first value of a Discrete observation, None for any other."""

    @property
    def image(self) -> tuple[int, ...] | None:
        """(height, width, channels) of an array with three axes, and of bytes with two; None for any other."""
        if len(self.shape) == 3:
            return self.shape
        return (*self.shape, 1) if len(self.shape) == 2 and self.is_image else None

    def write(self, value: Any, row: np.ndarray) -> None:
        """Put `value` into the zeroed `row`; ContractBroken where its shape or range is not the space's."""
        value = np.asarray(value)
        if value.shape != self.shape:
            raise ContractBroken("observation-shape", f"an observation of shape {value.shape} where the space says {self.shape}")
        if self.one_hot_from is not None:
            index = int(value) - self.one_hot_from
            if not 0 <= index < self.width:
                raise ContractBroken(
                    "observation-range", f"observation {int(value)} lies outside its Discrete space of {self.width} values"
                )
            row[index] = 1
            return
        if self.is_image and row.dtype != np.uint8:
            value = value / np.float32(255)
        row[: self.width] = value.reshape(-1) if value.ndim != 1 else value


@dataclass(frozen=True)
class ActionPlan:
    """What the numbers on the action axis mean for one agent."""

    count: int
    """Real actions; the rest of the axis is masked."""
    start: int
    """What the environment calls action 0 (Discrete)."""
    sizes: tuple[int, ...] | None
    """Choices per part (MultiDiscrete), None for Discrete."""
    starts: tuple[int, ...] = ()

    def decode(self, index: int) -> Any:
        """The environment's own action: an int, or a fresh array for MultiDiscrete."""
        if self.sizes is None:
            return index + self.start
        return np.array(np.unravel_index(index, self.sizes)) + np.array(self.starts)


def show_space(space: spaces.Space) -> str:
    """A space in a few words: Box(0.0, 1.0, (5,))."""
    if isinstance(space, spaces.Box):
        return f"Box({space.low.min()}, {space.high.max()}, {space.shape})"
    return str(space)


def holds_small_numbers(space: Any) -> bool:
    """Whether bytes of this space are flags, counts or codes: as pixels, divided by 255, there would be next to nothing of them."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and int(space.high.max(initial=0)) < 128


def plan_obs(agent: str, space: spaces.Space) -> ObsPlan:
    """How to read `space`; UnsupportedTask where it has no fixed flat form here."""
    inner, in_dict = space, False
    if isinstance(space, spaces.Dict) and set(space.spaces) == {"observation", "action_mask"}:
        inner, in_dict = space["observation"], True
    if isinstance(inner, spaces.Discrete):
        return ObsPlan(shape=(), width=int(inner.n), is_image=False, in_dict=in_dict, one_hot_from=int(inner.start))
    if isinstance(inner, spaces.Box | spaces.MultiBinary):
        shape = tuple(inner.shape)
        is_image = isinstance(inner, spaces.Box) and inner.dtype == np.uint8 and not holds_small_numbers(inner)
        return ObsPlan(shape=shape, width=prod(shape), is_image=is_image, in_dict=in_dict)
    raise UnsupportedTask(
        f"{agent} observes {show_space(space)}; observations are Box, Discrete, MultiBinary, or a Dict of observation and action_mask.",
        "Wrap it, for example with gymnasium.spaces.utils.flatten.",
    )


def plan_action(agent: str, space: spaces.Space, remedy: str = "Wrap it.") -> ActionPlan:
    """How to number the actions of `space`; UnsupportedTask (ending in `remedy`) where they cannot be numbered."""
    if isinstance(space, spaces.Discrete):
        return ActionPlan(count=int(space.n), start=int(space.start), sizes=None)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        sizes = tuple(int(size) for size in space.nvec)
        if prod(sizes) > MAX_JOINT_CHOICES:
            raise UnsupportedTask(
                f"{agent} has {show_space(space)}: {prod(sizes)} combinations, more than {MAX_JOINT_CHOICES};"
                " VDN and QMIX need Discrete actions.",
                remedy,
            )
        return ActionPlan(count=prod(sizes), start=0, sizes=sizes, starts=tuple(int(start) for start in space.start))
    raise UnsupportedTask(f"{agent} has {show_space(space)}; VDN and QMIX need Discrete actions.", remedy)
