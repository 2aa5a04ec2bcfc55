"""Replay add and sample: joint transitions per CPU second, beside cpprb and TorchRL.

All hold the same joint transitions: every field of a `Rollout` of native/spread (3 agents, 18 features), by name, shape and type, and
every sample returns all of them. A peer is measured a second time with the five fields that a plain Q-learner needs (obs, action,
reward, terminated, next_obs), which is less work than ours.
"""

# pyright: reportMissingImports=false
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...envs.registry import make
from ..config import ReplayConfig
from ..data import Rollout, tensor_fields
from ..memory import example_rollout
from ..replay import Replay
from .clock import Pace, Side, steady
from .peers import PEERS
from .rows import Row, compare, missing

UNIT = "joint transitions per CPU second"
FIVE = ("obs", "action", "reward", "terminated", "next_obs")
CAPACITY, STEPS, COPIES = 65_536, 32, 8
Store = tuple[Callable[[], float], Callable[[], float]]
"""(add one batch of STEPS x COPIES, sample one minibatch), each giving the number of joint transitions."""


def random_rollout(generator: torch.Generator) -> Rollout:
    """STEPS steps of COPIES copies of spread with random contents."""
    example = example_rollout(make("native/spread").spec)

    def draw(name: str) -> Tensor:
        shape, dtype = (STEPS, COPIES, *getattr(example, name).shape[2:]), getattr(example, name).dtype
        if dtype.is_floating_point:
            return torch.rand(shape, generator=generator, dtype=dtype)
        return torch.randint(2, shape, generator=generator).to(dtype)

    contents: dict[str, Any] = {name: draw(name) for name in tensor_fields()}
    return Rollout(**contents)


def own_store(rollout: Rollout, size: int, *, packed: bool = False) -> Store:
    """Ours."""
    config = ReplayConfig(sampling="uniform", capacity=CAPACITY, num_envs=COPIES, rollout_steps=STEPS, minibatch_size=size)
    spec = make("native/spread").spec
    replay, generator = Replay(config, example_rollout(spec), state_is_obs=spec.state_is_obs), torch.Generator().manual_seed(1)

    def add() -> float:
        replay.add(rollout)
        return float(STEPS * COPIES)

    def sample() -> float:
        if packed:
            replay.rows(replay.uniform_windows(generator), window=1)
        else:
            replay.uniform(generator)
        return float(size)

    return add, sample


def cpprb_store(rollout: Rollout, size: int, fields: tuple[str, ...]) -> Store:
    """cpprb's ReplayBuffer; its samples are NumPy arrays."""
    import cpprb

    arrays = {name: getattr(rollout, name).flatten(0, 1).numpy() for name in fields}
    shapes: dict[str, Any] = {name: {"shape": value.shape[1:] or 1, "dtype": value.dtype} for name, value in arrays.items()}
    buffer = cpprb.ReplayBuffer(CAPACITY, shapes)

    def add() -> float:
        buffer.add(**arrays)
        return float(STEPS * COPIES)

    def sample() -> float:
        buffer.sample(size)
        return float(size)

    return add, sample


def torchrl_store(rollout: Rollout, size: int, fields: tuple[str, ...]) -> Store:
    """TorchRL's TensorDictReplayBuffer over a LazyTensorStorage."""
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

    batch = TensorDict({name: getattr(rollout, name).flatten(0, 1) for name in fields}, batch_size=[STEPS * COPIES])
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(CAPACITY), batch_size=size)

    def add() -> float:
        buffer.extend(batch)
        return float(STEPS * COPIES)

    def sample() -> float:
        buffer.sample()
        return float(size)

    return add, sample


def measure_add(pace: Pace) -> list[Row]:
    """Adding batches of STEPS x COPIES to full buffers."""
    return _measure(0, f"replay add, {STEPS * COPIES} at once", 32, pace)


def measure_sample(size: int, pace: Pace) -> list[Row]:
    """Sampling minibatches of `size` from full buffers; packed rows are what the captured loop reads, its graph takes them apart."""
    return _measure(1, f"replay sample, {size}", size, pace) + _measure(1, f"replay sample, {size}, packed rows", size, pace, packed=True)


def _measure(part: int, what: str, size: int, pace: Pace, *, packed: bool = False) -> list[Row]:
    rollout = random_rollout(torch.Generator().manual_seed(pace.seed))
    here = [name for name in STORES if PEERS[name].is_installed]
    sides: dict[str, Side] = {}
    for name in here:
        for peer, fields in ((name, tensor_fields()), (f"{name}, {len(FIVE)} fields", FIVE)):
            sides[peer] = steady(_often(_filled(STORES[name](rollout, size, fields))[part]))
    ours = steady(_often(_filled(own_store(rollout, size, packed=packed))[part]))
    notes = {peer: "the same fields" if peer in STORES else f"theirs holds {len(FIVE)} fields, ours all" for peer in sides}
    rows = compare(what, UNIT, ours, sides, pace=pace, notes=notes)
    return rows + [missing(what, name, UNIT, PEERS[name].install) for name in STORES if name not in here]


STORES: dict[str, Callable[[Rollout, int, tuple[str, ...]], Store]] = {"cpprb": cpprb_store, "TorchRL": torchrl_store}


def _filled(store: Store) -> Store:
    for _ in range(CAPACITY // (STEPS * COPIES)):
        store[0]()
    return store


def _often(call: Callable[[], float]) -> Callable[[], float]:
    """Twenty calls, so that reading the clock costs nothing beside them."""
    return lambda: sum(call() for _ in range(20))
