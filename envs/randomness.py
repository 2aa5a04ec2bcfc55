"""Counter-based random numbers: a pure function of (copy seed, episode, step, stream).

Nothing is drawn from a generator that moves, so copy k's episode is the same alone or among 4,096, and two worlds
that share a seed stay paired after one of them ends early. The mixing function is splitmix64's finaliser
(Steele, Lea, Flood 2014), computed on int64 tensors, whose products wrap around.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# Streams: who draws. A number drawn in one stream never shifts another stream.
TASK, RESET, EXPLORE, POLICY, PROBE, ABSENT, COUNTERFACTUAL = range(7)

_GOLDEN = 0x9E3779B97F4A7C15
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BITS = (1 << 64) - 1


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as `value` mod 2**64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_G, _S1, _S2 = _signed(_GOLDEN), _signed(_M1), _signed(_M2)

_MULTIPLES = torch.tensor([_signed(index * _GOLDEN) for index in range(1024)])


def _multiples(count: int) -> Int[Tensor, " count"]:
    """index * golden, which wraps around: no part of a graph, since a compiler that folds it into its index arithmetic would overflow."""
    if count <= len(_MULTIPLES):
        return _MULTIPLES[:count]
    return torch.from_numpy((np.arange(count, dtype=np.uint64) * np.uint64(_GOLDEN)).view(np.int64))


def _scramble(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """splitmix64's finaliser: a bijection of 64 bits in which every input bit moves every output bit."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _S1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _S2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def fold(key: Int[Tensor, "*#shape"], value: "Int[Tensor, '*#shape'] | int") -> Int[Tensor, "*#shape"]:
    """A new key from `key` and one more counter (broadcast against each other)."""
    step = _signed(value * _G) if isinstance(value, int) else value * _G
    return _scramble(key * 3 + _G + step)


def split(key: Int[Tensor, "*shape"], count: int, *, axis: Literal[-1, 0] = -1) -> Int[Tensor, "*keys"]:
    """`count` independent keys from each key, along a new axis: the last or the first."""
    multiples = _multiples(count).to(key.device)
    if axis == 0:
        multiples = multiples.view(-1, *[1] * key.dim())
    return _scramble(key.unsqueeze(axis) * 3 + _G + multiples)


def uniform(key: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """One number in [0, 1) per key, float64 with 53 random bits."""
    return ((_scramble(key) >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53


def choice(key: Int[Tensor, "*shape"], allowed: Tensor) -> Int[Tensor, "*shape"]:
    """The index of one True entry of `allowed` (*shape, options), each equally likely; 0 where none is True."""
    score = uniform(split(key, allowed.shape[-1]))
    return torch.where(allowed, score, -1.0).argmax(-1)


def mix_seed(*values: int) -> int:
    """The same mixing for plain integers: one 31-bit seed, for environments that take `reset(seed=...)`.

    `_scramble(fold(fold(0, first), second) ...)` in Python's own integers, which beside a tensor of one number cost next to nothing.
    """
    key = 0
    for value in values:
        key = _scramble_plain(key * 3 + _GOLDEN + value * _GOLDEN)
    return _scramble_plain(key) & 0x7FFFFFFF


def _scramble_plain(x: int) -> int:
    """`_scramble` of the 64 low bits of `x`."""
    x &= _BITS
    x = ((x ^ (x >> 30)) * _M1) & _BITS
    x = ((x ^ (x >> 27)) * _M2) & _BITS
    return x ^ (x >> 31)


def copy_seeds(seed: int, count: int) -> Int[Tensor, " env"]:
    """`count` well-separated copy seeds of one run seed: copy k's does not depend on `count`."""
    return split(torch.tensor(_signed(seed), dtype=torch.int64), count)


@dataclass(frozen=True)
class Clock:
    """Where each copy stands: enough to name every random number it will ever draw."""

    seed: Int[Tensor, " env"]
    """The copy's seed."""
    episode: Int[Tensor, " env"]
    """Episodes begun before this one."""
    step: Int[Tensor, " env"]
    """Env steps taken in this episode."""

    @classmethod
    def start(cls, seeds: Int[Tensor, " env"]) -> "Clock":
        """Episode 0, step 0 of each copy."""
        seeds = seeds.to(torch.int64)
        return cls(seed=seeds, episode=torch.zeros_like(seeds), step=torch.zeros_like(seeds))

    def key(self, stream: int) -> Int[Tensor, " env"]:
        """The key of this (copy, episode, step) in `stream`."""
        return fold(fold(fold(fold(torch.zeros_like(self.seed), self.seed), stream), self.episode), self.step)

    def tick(self, done: Tensor | None = None) -> "Clock":
        """One step later; copies that are `done` move to step 0 of their next episode."""
        if done is None:
            return type(self)(self.seed, self.episode, self.step + 1)
        return type(self)(self.seed, self.episode + done.to(torch.int64), torch.where(done, 0, self.step + 1))
