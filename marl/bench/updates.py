"""The time of one update (a minibatch's loss, gradient and optimiser step) beside its floor: the same matrix products bare.

The products are those of one update of ours, forward and backward, written down as their operators see them; the floor multiplies
operands of the same shapes, made beforehand, into outputs made beforehand, and does nothing else. So a ratio of 0.5 says: half of
the update's time goes to matrix products.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..run import configure, make_env
from ..trainer import Trainer
from .clock import Pace, steady
from .rows import Row, compare

UNIT = "updates per CPU second"
Product = tuple[tuple[int, ...], tuple[int, ...]]
"""Shapes of both factors."""

RECURRENT: dict[str, Any] = {
    "network": {"kind": "gru", "hidden": 64, "layer_norm": False},
    "mixer": {"embed_dim": 32, "hyper_dim": 128},
    "learner": {"gamma": 0.9, "optimiser": "radam", "lr": 5e-3, "lr_decay": "linear", "grad_clip": 25, "target_every": 200},
    "exploration": {"start": 1.0, "end": 0.05, "fraction": 0.1},
    "replay": {
        "sampling": "uniform", "rollout_steps": 26, "num_envs": 8, "window": 26, "minibatch_size": 832, "replay_ratio": 4,
        "capacity": 130_000, "learning_starts": 10_000,
    },
}  # fmt: skip
"""JaxMARL's settings of QMIX-GRU and VDN-GRU under our names (its buffer counts windows of 26, its learning rate decays to 0)."""


def trainer(algo: str, options: dict[str, Any], *, task: str = "native/spread", preset: str | None = "none", seed: int = 0) -> Trainer:
    """A trainer whose schedules will not end while it is measured; eager unless `options` say otherwise."""
    flat = {"task": task, "algo": algo, "steps": 1_000_000_000, "seed": seed, "compile": "off", **options}
    config = configure(preset=preset, options=_dotted(flat), environ={}).config
    return Trainer(config, make_env(config))


def products(update: Callable[[], Any]) -> list[Product]:
    """The shapes of every matrix product inside one call, in order."""
    seen: list[Product] = []

    def pair(a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
        seen.append((tuple(a), tuple(b)))
        return 0

    def with_bias(bias: Any, a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
        return pair(a, b)

    aten = torch.ops.aten
    watched: dict[Any, Any] = {aten.mm: pair, aten.bmm: pair, aten.addmm: with_bias, aten.baddbmm: with_bias}
    with FlopCounterMode(display=False, custom_mapping=watched):
        update()
    return seen


def bare(shapes: list[Product]) -> Callable[[], float]:
    """All products once, one unit."""
    generator = torch.Generator().manual_seed(1)
    operands: list[tuple[Tensor, Tensor, Tensor]] = []
    for left, right in shapes:
        a, b = torch.rand(left, generator=generator), torch.rand(right, generator=generator)
        operands.append((a, b, torch.empty(*left[:-1], right[-1])))

    @torch.no_grad()
    def multiply() -> float:
        for a, b, out in operands:
            torch.mm(a, b, out=out) if a.dim() == 2 else torch.bmm(a, b, out=out)
        return 1.0

    return multiply


def one_update(learning: Trainer) -> Callable[[], float]:
    """One iteration on a minibatch drawn beforehand."""
    minibatch, context = learning.replay.uniform(learning.generator), _context(learning)

    def update() -> float:
        learning._iterate(minibatch, {}, context)
        return 1.0

    return update


def measure_floor(algo: str, pace: Pace) -> list[Row]:
    """A recurrent update of 32 windows of 26 steps beside its floor."""
    learning = trainer(algo, RECURRENT, seed=pace.seed)
    while not learning.replay.can_sample():
        learning.round()
    update = one_update(learning)
    shapes = products(update)
    flops = sum(2 * _numel(left) * right[-1] for left, right in shapes)
    note = f"{len(shapes)} products, {flops / 1e6:,.0f} Mflop; ratio: the products' share of the update"
    what = f"update {algo}-gru, 832 joint steps"
    peer = "floor: its matrix products bare"
    return compare(what, UNIT, steady(update), {peer: steady(bare(shapes))}, pace=pace, notes={peer: note})


def _context(learning: Trainer) -> Any:
    from ..learners.base import Context

    return Context(epsilon=learning.epsilon, generator=learning.fresh_actions, scale=learning.reward_scale.scale)


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _dotted(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) and name != "env" else {prefix + name: value}
    return flat
