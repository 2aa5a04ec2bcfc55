"""The replay of joint transitions: one preallocated tensor ring, one packed row per joint transition.

A row holds every field of a joint transition side by side as float32 (raw uint8 observations in a second ring), so a
minibatch is one gather. Axes of the ring: (time slot, env copy, row); a window of consecutive steps is a run of time
slots of one copy. State is explicit: `Replay` is mutated by `add` only; drawing takes a `torch.Generator`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from .config import ReplayConfig
from .data import Minibatch, Rollout, tensor_fields

Windows = tuple[Tensor, Tensor]
"""(logical start step, env copy) of each window; logical step 0 is the oldest stored one."""


@dataclass(frozen=True)
class Field:
    """Where one field lies in the packed row."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    stop: int


class Layout:
    """How a Rollout's fields lie in packed rows: 8-bit observations in a row of bytes, all else in a row of float32."""

    def __init__(self, example: Rollout):
        self.floats: list[Field] = []
        self.bytes: list[Field] = []
        named = {name: getattr(example, name) for name in tensor_fields()} | {f"extras.{k}": v for k, v in example.extras.items()}
        widths = {"floats": 0, "bytes": 0}
        for name, value in named.items():
            kind = "bytes" if value.dtype == torch.uint8 else "floats"
            shape = tuple(value.shape[2:])
            size = int(torch.Size(shape).numel())
            getattr(self, kind).append(Field(name, shape, value.dtype, widths[kind], widths[kind] + size))
            widths[kind] += size
        self.float_width, self.byte_width = widths["floats"], widths["bytes"]

    @property
    def bytes_per_step(self) -> int:
        return 4 * self.float_width + self.byte_width

    def pack(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """(time, env, float row) and (time, env, byte row)."""

        def row(fields: list[Field], dtype: torch.dtype) -> Tensor:
            if not fields:
                return torch.zeros(*rollout.reward.shape, 0, dtype=dtype)
            columns = [_get(rollout, item.name).to(dtype) for item in fields]
            return torch.cat([value.flatten(2) if value.dim() > 2 else value.unsqueeze(-1) for value in columns], -1)

        return row(self.floats, torch.float32), row(self.bytes, torch.uint8)

    def unpack(self, floats: Tensor, raw: Tensor) -> Rollout:
        """The fields back again; float32 fields are views of the rows."""
        values: dict[str, Tensor] = {}
        for fields, rows in ((self.floats, floats), (self.bytes, raw)):
            for item in fields:
                part = rows[..., item.start : item.stop]
                part = part.unflatten(-1, item.shape) if len(item.shape) > 1 else part if item.shape else part.squeeze(-1)
                values[item.name] = part != 0 if item.dtype == torch.bool else part.to(item.dtype)
        extras = {name.removeprefix("extras."): values.pop(name) for name in list(values) if name.startswith("extras.")}
        return Rollout(**values, extras=extras)


def _get(rollout: Rollout, name: str) -> Tensor:
    return rollout.extras[name.removeprefix("extras.")] if name.startswith("extras.") else getattr(rollout, name)


class Replay:
    """A ring of `slots` time steps by `num_envs` copies."""

    def __init__(
        self, config: ReplayConfig, example: Rollout, *, memory_limit: int | None = None, announce: Callable[[str], None] | None = None
    ):
        """Allocates the ring; `example` is any rollout of the run (its lengths do not matter).

        `announce` is told the ring's size in words before it is allocated.
        Raises ValueError, before anything is allocated, when the ring would not fit the machine's memory.
        """
        self.config, self.layout = config, Layout(example)
        self.num_envs = config.num_envs
        stored = config.capacity if config.sampling == "uniform" else config.num_envs * (config.rollout_steps + config.burn_in)
        self.slots = max(stored // config.num_envs, config.rollout_steps)
        self.footprint = self.slots * self.num_envs * self.layout.bytes_per_step
        limit = memory_limit if memory_limit is not None else machine_memory()
        if self.footprint > limit:
            fits = f"{limit // 2 // self.layout.bytes_per_step:,}"
            remedy = f"replay.capacity to at most {fits}"
            if config.sampling == "split":  # stores the fresh batch only, whatever the capacity
                remedy = f"replay.rollout_steps or replay.num_envs to a batch of at most {fits}"
            raise ValueError(
                f"the replay would take {human_bytes(self.footprint)} ({self.slots * self.num_envs:,} joint transitions of "
                f"{self.layout.bytes_per_step:,} bytes), this machine has {human_bytes(limit)}: lower {remedy}"
            )
        if announce is not None:
            announce(
                f"replay      {human_bytes(self.footprint)}: {self.slots * self.num_envs:,} joint transitions of "
                f"{human_bytes(self.layout.bytes_per_step)}, {human_bytes(limit)} of memory here"
            )
        self.floats = torch.zeros(self.slots, self.num_envs, self.layout.float_width)
        self.raw = torch.zeros(self.slots, self.num_envs, self.layout.byte_width, dtype=torch.uint8)
        self.position, self.count = 0, 0

    def add(self, rollout: Rollout) -> None:
        """Append T time steps of every copy; the oldest are overwritten."""
        steps = rollout.num_steps
        assert steps <= self.slots, (steps, self.slots)
        slots = (torch.arange(steps) + self.position) % self.slots
        floats, raw = self.layout.pack(rollout)
        self.floats[slots], self.raw[slots] = floats, raw
        self.position = (self.position + steps) % self.slots
        self.count = min(self.count + steps, self.slots)

    @property
    def stored(self) -> int:
        """Joint transitions held now."""
        return self.count * self.num_envs

    def gather(self, windows: Windows, *, window: int, burn_in: int) -> Minibatch:
        """The steps of the given windows, each preceded by `burn_in` steps (not valid where none is stored)."""
        start, copy = windows
        logical = start + torch.arange(-burn_in, window).unsqueeze(-1)
        slot = (logical.clamp(min=0) + self.position - self.count) % self.slots
        flat = (slot * self.num_envs + copy).flatten()
        floats = self.floats.flatten(0, 1).index_select(0, flat).unflatten(0, logical.shape)
        raw = self.raw.flatten(0, 1).index_select(0, flat).unflatten(0, logical.shape)
        steps = self.layout.unpack(floats, raw)
        if burn_in:
            steps = _before_the_first(steps, logical < 0)
        return Minibatch(steps=steps, burn_in=burn_in)

    def fresh_windows(self) -> Windows:
        """All windows of the newest rollout_steps, copy by copy."""
        config = self.config
        starts = torch.arange(self.count - config.rollout_steps, self.count, config.window)
        return starts.repeat_interleave(self.num_envs), torch.arange(self.num_envs).repeat(len(starts))

    def split(self, generator: torch.Generator, per_step: Tensor | None = None) -> Iterator[tuple[Minibatch, Tensor | None]]:
        """One epoch: the newest batch's windows, shuffled and cut; every step exactly once.

        `per_step` (time, env, ...) belongs to the batch's steps, and each minibatch comes with its part of it.
        """
        config = self.config
        start, copy = self.fresh_windows()
        inside = torch.arange(config.window).unsqueeze(-1) - (self.count - config.rollout_steps)
        for rows in cut(torch.randperm(len(start), generator=generator), config):
            minibatch = self.gather((start[rows], copy[rows]), window=config.window, burn_in=config.burn_in)
            yield minibatch, None if per_step is None else per_step[start[rows] + inside, copy[rows]]

    def uniform(self, generator: torch.Generator) -> Minibatch:
        """One minibatch of windows over all that is stored, with replacement, each start equally likely."""
        config = self.config
        assert isinstance(config.minibatch_size, int)
        count = config.minibatch_size // config.window
        start = torch.randint(self.count - config.window + 1, (count,), generator=generator)
        copy = torch.randint(self.num_envs, (count,), generator=generator)
        return self.gather((start, copy), window=config.window, burn_in=config.burn_in)

    def can_sample(self) -> bool:
        """Enough consecutive steps for a window, and at least one minibatch of joint steps."""
        size = self.config.minibatch_size
        return self.count >= self.config.window and self.stored >= (size if isinstance(size, int) else 1)

    def newest(self) -> Rollout:
        """The newest rollout_steps of all copies, as they were added."""
        slots = (torch.arange(-self.config.rollout_steps, 0) + self.position) % self.slots
        return self.layout.unpack(self.floats[slots], self.raw[slots])

    def dump(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """What is stored (not the empty rest of the ring), oldest step first."""
        slots = (torch.arange(self.count) + self.position - self.count) % self.slots
        tensors = {"floats": self.floats[slots]} | ({"raw": self.raw[slots]} if self.layout.byte_width else {})
        return tensors, {"count": self.count, "position": self.position}

    def restore(self, tensors: dict[str, Tensor], meta: dict[str, int]) -> None:
        """Back to a dumped state, ring position included."""
        self.count, self.position = meta["count"], meta["position"]
        slots = (torch.arange(self.count) + self.position - self.count) % self.slots
        self.floats[slots] = tensors["floats"]
        if self.layout.byte_width:
            self.raw[slots] = tensors["raw"]


def cut(order: Int[Tensor, " window"], config: ReplayConfig) -> list[Tensor]:
    """Window numbers in their shuffled order, cut into minibatches; the last short one by `last_minibatch`."""
    if config.minibatch_size == "full":
        return [order]
    size = config.minibatch_size // config.window
    parts = list(order.split(size))
    if len(parts[-1]) < size and len(parts) > 1:
        if config.last_minibatch == "drop":
            parts = parts[:-1]
        elif config.last_minibatch == "merge":
            parts = [*parts[:-2], torch.cat(parts[-2:])]
    return parts


def _before_the_first(steps: Rollout, missing: Tensor) -> Rollout:
    """Steps that precede the oldest stored one are padding: not valid, and the memory restarts after them."""
    values = {name: getattr(steps, name) for name in tensor_fields()}
    values["valid"] = steps.valid & ~missing
    after_missing = torch.cat([torch.zeros_like(missing[:1]), missing[:-1]])
    values["episode_start"] = steps.episode_start | missing | after_missing
    return Rollout(**values, extras=steps.extras)


def machine_memory() -> int:
    """Bytes of memory this process may use: the machine's, or the container's limit where there is a lower one."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            physical = min(physical, int(text))
    return physical


def human_bytes(count: int) -> str:
    """12.3 MB and the like."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
