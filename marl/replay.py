"""The replay of joint transitions: one preallocated tensor ring, one packed row per joint transition.

A row holds every field of a joint transition side by side as float32 (raw uint8 observations in a second ring), so a
minibatch is one gather. Axes of the ring: (time slot, env copy, row); a window of consecutive steps is a run of time
slots of one copy. State is explicit: `Replay` is mutated by `add` only; drawing takes a `torch.Generator`.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import copy as shallow_copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..envs.base import TeamSpec
from .config import ReplayConfig
from .data import Minibatch, Rollout, tensor_fields
from .memory import example_rollout, human_bytes, machine_memory, refuse_images, refuse_replay, time_slots

Windows = tuple[Tensor, Tensor]
"""(logical start step, env copy) of each window; logical step 0 is the oldest stored one."""


@dataclass(frozen=True)
class Field:
    """One field of the packed row."""

    name: str
    shape: tuple[int, ...]
    size: int
    """Numbers in it."""


class Block:
    """Fields of one type, side by side in the packed row, single numbers first: a few operations take a row apart."""

    def __init__(self, dtype: torch.dtype, fields: list[Field]):
        self.dtype, self.fields = dtype, sorted(fields, key=lambda item: bool(item.shape))
        self.width = sum(item.size for item in fields)
        self._single = [item.name for item in self.fields if not item.shape]
        self._rest = [(item.name, item.shape) for item in self.fields if item.shape]
        self._sizes = [len(self._single), *(item.size for item in self.fields if item.shape)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and (self.dtype, self.fields) == (other.dtype, other.fields)

    def __hash__(self) -> int:
        return hash((self.dtype, tuple(self.fields)))

    def take(self, rows: Tensor) -> dict[str, Tensor]:
        """Each field's part of the rows, in its own shape; views of one converted tensor."""
        if not self.fields:
            return {}
        kept = rows if rows.dtype == self.dtype else rows != 0 if self.dtype == torch.bool else rows.to(self.dtype)
        single, *rest = kept.split_with_sizes(self._sizes, -1)
        values = dict(zip(self._single, single.unbind(-1), strict=True))
        lead = rows.shape[:-1]
        for (name, shape), part in zip(self._rest, rest, strict=True):
            values[name] = part.view(*lead, *shape) if len(shape) > 1 else part
        return values


class Layout:
    """How a Rollout's fields lie in packed rows: 8-bit observations in a row of bytes, all else in a row of float32.

    With `state_is_obs` (see TeamSpec) states are not stored: they are put together again from the observations.
    """

    def __init__(self, example: Rollout, *, state_is_obs: bool = False):
        self.state_is_obs = state_is_obs
        named = {name: getattr(example, name) for name in tensor_fields()} | {f"extras.{k}": v for k, v in example.extras.items()}
        if state_is_obs:
            del named["state"], named["next_state"]
        groups: dict[torch.dtype, list[Field]] = {kind: [] for kind in (torch.float32, torch.bool, torch.int64, torch.uint8)}
        for name, value in named.items():
            shape = tuple(value.shape[2:])
            groups[value.dtype].append(Field(name, shape, int(torch.Size(shape).numel())))
        self.bytes = Block(torch.uint8, groups.pop(torch.uint8))
        self.blocks = [Block(kind, fields) for kind, fields in groups.items()]
        self._widths = [block.width for block in self.blocks]
        self.float_width, self.byte_width = sum(self._widths), self.bytes.width

    @property
    def bytes_per_step(self) -> int:
        return 4 * self.float_width + self.byte_width

    def pack(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """(time, env, float row) and (time, env, byte row)."""
        fields = [item for block in self.blocks for item in block.fields]
        return _row(rollout, fields, torch.float32), _row(rollout, self.bytes.fields, torch.uint8)

    def unpack(self, floats: Tensor, raw: Tensor) -> Rollout:
        """The fields back again; float32 fields are views of the rows."""
        values = self.bytes.take(raw)
        for block, part in zip(self.blocks, floats.split_with_sizes(self._widths, -1), strict=True):
            values |= block.take(part)
        if self.state_is_obs:
            values |= {"state": side_by_side(values["obs"]), "next_state": side_by_side(values["next_obs"])}
        extras = {name.removeprefix("extras."): values.pop(name) for name in list(values) if "." in name}
        return Rollout(**values, extras=extras)

    def column(self, name: str) -> int:
        """Where in the row of floats a field of one number lies."""
        at = 0
        for item in (item for block in self.blocks for item in block.fields):
            if item.name == name:
                return at
            at += item.size
        raise KeyError(name)


def _row(rollout: Rollout, fields: list[Field], dtype: torch.dtype) -> Tensor:
    if not fields:
        return torch.zeros(*rollout.reward.shape, 0, dtype=dtype, device=rollout.reward.device)
    columns = [_get(rollout, item.name).to(dtype) for item in fields]
    return torch.cat([value.flatten(2) if value.dim() > 2 else value.unsqueeze(-1) for value in columns], -1)


def side_by_side(obs: Tensor) -> Float[Tensor, "time env state"]:
    """The state of a task whose state is its observations: (time, env, agent, obs) in one row, bytes scaled to [0, 1]."""
    row = obs.flatten(2)
    return row.to(torch.float32) / 255 if row.dtype == torch.uint8 else row


def refuse_oversize(config: ReplayConfig, spec: TeamSpec, *, memory: int | None = None) -> None:
    """ConfigError, before anything is allocated, where a replay of the task would not fit into `memory` (the machine's)."""
    memory = machine_memory() if memory is None else memory
    bytes_per_step = Layout(example_rollout(spec), state_is_obs=spec.state_is_obs).bytes_per_step
    refuse_images(config, spec, bytes_per_step, memory)
    refuse_replay(config, bytes_per_step, memory)


def _get(rollout: Rollout, name: str) -> Tensor:
    return rollout.extras[name.removeprefix("extras.")] if name.startswith("extras.") else getattr(rollout, name)


class Replay:
    """A ring of `slots` time steps by `num_envs` copies."""

    def __init__(
        self,
        config: ReplayConfig,
        example: Rollout,
        *,
        state_is_obs: bool = False,
        memory_limit: int | None = None,
        announce: Callable[[str], None] | None = None,
        seeds: int = 1,
    ):
        """Allocates the ring; `example` is any rollout of the run (its lengths do not matter), `state_is_obs` as in TeamSpec.

        `announce` is told the ring's size in words before it is allocated; `seeds` is how many runs share it.
        Raises ConfigError, before anything is allocated, when the ring would not fit the machine's memory.
        """
        self.config, self.layout = config, Layout(example, state_is_obs=state_is_obs)
        self.num_envs, self.slots = config.num_envs, time_slots(config)
        self.footprint = self.slots * self.num_envs * self.layout.bytes_per_step
        limit = memory_limit if memory_limit is not None else machine_memory()
        refuse_replay(config, self.layout.bytes_per_step, limit, seeds=seeds)
        if announce is not None:
            announce(
                f"replay      {human_bytes(self.footprint)}: {self.slots * self.num_envs:,} joint transitions of "
                f"{human_bytes(self.layout.bytes_per_step)}, {human_bytes(limit)} of memory here"
            )
        self.floats = torch.zeros(self.slots, self.num_envs, self.layout.float_width)
        self.raw = torch.zeros(self.slots, self.num_envs, self.layout.byte_width, dtype=torch.uint8)
        self.position, self.count = 0, 0

    def part(self, config: ReplayConfig, first: int) -> "Replay":
        """The ring of `config.num_envs` copies from copy `first` on, in this ring's own memory; its counters are its own."""
        part = shallow_copy(self)
        part.config, part.num_envs = config, config.num_envs
        part.footprint = self.footprint * config.num_envs // self.num_envs
        part.floats, part.raw = (ring[:, first : first + config.num_envs] for ring in (self.floats, self.raw))
        return part

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

    def put(self, floats: Tensor, raw: Tensor) -> None:
        """Append one time step of every copy, packed (env, row); the oldest is overwritten."""
        self.floats[self.position].copy_(floats)
        if self.layout.byte_width:
            self.raw[self.position].copy_(raw)
        self.position = (self.position + 1) % self.slots
        self.count = min(self.count + 1, self.slots)

    def rows(self, windows: Windows, *, window: int, burn_in: int = 0) -> tuple[Tensor, Tensor]:
        """The packed steps (time, window, row) of the given windows, each preceded by `burn_in` steps (not valid where none is stored)."""
        start, copy = windows
        oldest = self.position - self.count
        logical = start.unsqueeze(0) if window == 1 and not burn_in else start + torch.arange(-burn_in, window).unsqueeze(-1)
        held = logical.clamp(min=0) if burn_in else logical
        flat = ((held + oldest) % self.slots * self.num_envs + copy).view(-1)
        floats = self.floats.view(-1, self.layout.float_width).index_select(0, flat).view(*logical.shape, -1)
        if burn_in:
            self._mark_missing(floats, logical < 0)
        if not self.layout.byte_width:
            return floats, self.raw.new_empty(*logical.shape, 0)
        return floats, self.raw.view(-1, self.layout.byte_width).index_select(0, flat).view(*logical.shape, -1)

    def _mark_missing(self, floats: Tensor, missing: Tensor) -> None:
        """Steps that precede the oldest stored one are padding: not valid, and the memory restarts after them."""
        floats[..., self.layout.column("valid")].masked_fill_(missing, 0.0)
        after_missing = torch.cat([torch.zeros_like(missing[:1]), missing[:-1]])
        floats[..., self.layout.column("episode_start")].masked_fill_(missing | after_missing, 1.0)

    def gather(self, windows: Windows, *, window: int, burn_in: int) -> Minibatch:
        """The steps of the given windows, each preceded by `burn_in` steps (not valid where none is stored)."""
        steps = self.layout.unpack(*self.rows(windows, window=window, burn_in=burn_in))
        return Minibatch(steps=steps, burn_in=burn_in, padded=burn_in > 0)

    def fresh_windows(self) -> Windows:
        """All windows of the newest rollout_steps, copy by copy."""
        config = self.config
        starts = torch.arange(self.count - config.rollout_steps, self.count, config.window)
        return starts.repeat_interleave(self.num_envs), torch.arange(self.num_envs).repeat(len(starts))

    def split(
        self, generator: torch.Generator, per_step: Mapping[str, Tensor] | None = None
    ) -> Iterator[tuple[Minibatch, dict[str, Tensor]]]:
        """One epoch: the newest batch's windows, shuffled and cut; every step exactly once.

        The tensors of `per_step` (time, env, ...) belong to the batch's steps; each minibatch comes with its part of them.
        """
        for windows, own in self.split_windows(generator, per_step):
            yield self.gather(windows, window=self.config.window, burn_in=self.config.burn_in), own

    def split_windows(
        self, generator: torch.Generator, per_step: Mapping[str, Tensor] | None = None
    ) -> Iterator[tuple[Windows, dict[str, Tensor]]]:
        """What `split` gathers: each minibatch's windows, and its part of `per_step`."""
        start, copy = self.fresh_windows()
        first = self.count - self.config.rollout_steps
        for rows in cut(torch.randperm(len(start), generator=generator), self.config):
            windows = start[rows], copy[rows]
            yield windows, self.of_windows((windows[0] - first, windows[1]), per_step or {})

    def of_windows(self, windows: Windows, per_step: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each tensor's part (time, window, ...) for windows that are counted from its own first step."""
        start, copy = windows
        steps = start + torch.arange(self.config.window).unsqueeze(-1)
        return {name: value[steps, copy] for name, value in per_step.items()}

    def uniform(self, generator: torch.Generator) -> Minibatch:
        """One minibatch of windows over all that is stored, with replacement, each start equally likely."""
        return self.gather(self.uniform_windows(generator), window=self.config.window, burn_in=self.config.burn_in)

    def uniform_windows(self, generator: torch.Generator) -> Windows:
        """What `uniform` gathers."""
        config = self.config
        assert isinstance(config.minibatch_size, int)
        count = config.minibatch_size // config.window
        start = torch.randint(self.count - config.window + 1, (count,), generator=generator)
        return start, torch.randint(self.num_envs, (count,), generator=generator)

    def can_sample(self) -> bool:
        """Enough consecutive steps for a window, and at least one minibatch of joint steps."""
        size = self.config.minibatch_size
        return self.count >= self.config.window and self.stored >= (size if isinstance(size, int) else 1)

    def newest(self) -> Rollout:
        """The newest rollout_steps of all copies, as they were added."""
        return self.layout.unpack(*self.newest_rows())

    def newest_rewards(self) -> Float[Tensor, "time env"]:
        """The team rewards of the newest rollout_steps."""
        return self.newest_rows()[0][..., self.layout.column("reward")]

    def newest_rows(self) -> tuple[Tensor, Tensor]:
        """The same, packed."""
        steps = self.config.rollout_steps
        first = (self.position or self.slots) - steps
        if first >= 0:  # in one piece
            return self.floats[first : first + steps], self.raw[first : first + steps]
        slots = (torch.arange(-steps, 0) + self.position) % self.slots
        return self.floats[slots], self.raw[slots]

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


def minibatch_sizes(config: ReplayConfig) -> list[int]:
    """The numbers of windows that a minibatch may have: one, or two where a batch's last minibatch is another size."""
    if config.sampling == "split":
        return sorted({len(part) for part in cut(torch.arange(config.batch // config.window), config)})
    assert isinstance(config.minibatch_size, int)
    return [config.minibatch_size // config.window]
