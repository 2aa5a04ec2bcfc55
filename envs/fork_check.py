"""Whether a copy of a live environment is exact: original and copy, moved alike, have one future, and neither moves the other.

One copy is taken in the middle of an episode, and one early in another. At once a copy must hold what the original holds,
part by part (fork_parts.py), and share nothing that can change. Then the original takes `steps` random steps, under which
the copy must not stir; then the copy takes the same ones, under which the original must not stir, and sees, earns and ends
as the original did, bit for bit. At the end both hold the same again, every random stream included, and a reset with one
seed starts the same episode in both. An environment that draws from a generator of the whole process is refused: a copy
cannot have its own.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .fork import copy_env
from .fork_kinds import Calling, CannotCopy
from .fork_parts import difference, parts_of, shared_part

_LONGEST = 20
"""Env steps in which an episode's end is looked for; a copy is taken at half of that, or of the episode."""
_TIMED = 5
_GLOBAL = ("numpy's global generator", "the global generator of Python's random module", "torch's global generator")


@dataclass(frozen=True)
class CopyCheck:
    """What became of one environment and its copy."""

    exact: bool
    reason: str
    """Which part of the copy is not the original's; "" where it is exact."""
    seconds: float | None
    """Of one copy (median of five), None where none could be made."""
    taken_at: int
    """Env step of the episode at which the (last) copy was taken."""
    steps: int
    """Env steps that original and copy took and that were compared."""


@dataclass(frozen=True)
class _Seen:
    """What one step brought, as named arrays and numbers."""

    values: dict[str, Any]


def check_copy(env: Any, *, copier: Callable[[Any], Any] = copy_env, seed: int = 0, steps: int = 20) -> CopyCheck:
    """Copy an environment in mid-episode and compare the two futures.

    Args:
        env: a ParallelEnv, or a function that makes one (which is closed afterwards). It is reset, and left anywhere.
        copier: what makes the copy.
        seed: of the episodes and of the actions.
        steps: env steps to compare; an episode that ends before is compared to its end.
    """
    made = env() if isinstance(env, type) or not hasattr(env, "reset") else None
    probe = _Probe(env if made is None else made, copier, seed, steps)
    before = global_streams()
    try:
        reason = probe.run()
    except CannotCopy as failure:
        reason = str(failure)
    set_global_streams(before)
    if made is not None:
        made.close()
    return CopyCheck(not reason, reason, probe.seconds, probe.taken_at, probe.compared)


class _Probe:
    """One check under way."""

    def __init__(self, env: Any, copier: Callable[[Any], Any], seed: int, steps: int):
        self.env, self.copier, self.seed, self.steps = env, copier, seed, steps
        self.seconds: float | None = None
        self.taken_at = self.compared = 0

    def run(self) -> str:
        """What is not exact, "" where all is: of a copy taken in the middle of one episode, and of one early in another."""
        return self._round(self.seed, lambda length: length // 2) or self._round(self.seed + 1, lambda length: min(2, length // 2))

    def _round(self, seed: int, moment: Callable[[int], int]) -> str:
        with Calling("is played"):
            player = _Player(self.env, seed)
            self.taken_at = moment(self._length(player))
            seen = player.reset(self.env)
            for _ in range(self.taken_at):
                seen = player.step(self.env, player.choose(self.env, seen))
        copied = self._copy()
        parts, its_parts = parts_of(self.env), parts_of(copied)
        if path := difference(parts, its_parts):
            return f"{path} is not the same in the copy"
        if path := shared_part(parts, its_parts):
            return f"{path} is one object in the environment and its copy"
        return self._compare(player, seen, copied)

    def _length(self, player: "_Player") -> int:
        """Env steps of an episode of random actions."""
        seen = player.reset(self.env)
        for step in range(_LONGEST):
            if not self.env.agents:
                return step
            seen = player.step(self.env, player.choose(self.env, seen))
        return _LONGEST

    def _copy(self) -> Any:
        spent, copied = [], None
        for _ in range(_TIMED):
            start = time.perf_counter()
            with Calling("is copied"):
                copied = self.copier(self.env)
            spent.append(time.perf_counter() - start)
        self.seconds = sorted(spent)[_TIMED // 2]
        return copied

    def _compare(self, player: "_Player", seen: _Seen, copied: Any) -> str:
        its_parts, outside = parts_of(copied), global_streams()
        played, futures = [], []
        with Calling("goes on after it was copied"):
            while self.env.agents and len(played) < self.steps:
                played.append(player.choose(self.env, seen))
                seen = player.step(self.env, played[-1])
                futures.append(seen)
        if name := moved_stream(outside):
            return f"it draws from {name}, of which a copy cannot have its own"
        if path := difference(its_parts, parts_of(copied)):
            return f"{path} of the copy changes while only the original is stepped"
        parts = parts_of(self.env)
        for step, (joint, future) in enumerate(zip(played, futures, strict=True), start=1):
            with Calling(f"takes step {step} as a copy"):
                seen = player.step(copied, joint)
            if name := first_difference(future, seen):
                return f"{name} differs at step {step} after the copy was taken"
            self.compared += 1
        if path := difference(parts, parts_of(self.env)):
            return f"{path} of the original changes while only its copy is stepped"
        if path := difference(parts, parts_of(copied)):
            return f"{path} differs {len(played)} steps after the copy was taken"
        with Calling("is reset after it was copied"):
            name = first_difference(player.reset(self.env), player.reset(copied))
        return f"{name} differs after both are reset with one seed" if name else ""


class _Player:
    """Steps environments with legal random actions, in an order of its own."""

    def __init__(self, env: Any, seed: int):
        self.seed, self.episode = seed, 0
        self.rng = np.random.default_rng(seed)
        # Sampling moves a space's own stream, which may be part of the environment: so copies of them.
        self.spaces = {agent: copy_env(env.action_space(agent)) for agent in env.possible_agents}
        for number, space in enumerate(self.spaces.values()):
            space.seed(seed + number)

    def reset(self, env: Any) -> _Seen:
        return self._seen(env, *env.reset(seed=self.seed))

    def choose(self, env: Any, seen: _Seen) -> dict[Any, Any]:
        return {agent: self._action(agent, seen.values.get(f"the action mask of {agent}")) for agent in env.agents}

    def step(self, env: Any, joint: dict[Any, Any]) -> _Seen:
        obs, rewards, terminations, truncations, infos = env.step(joint)
        flags = {"reward": rewards, "termination": terminations, "truncation": truncations}
        seen = self._seen(env, obs, infos)
        return _Seen({f"the {what} of {agent}": value for what, each in flags.items() for agent, value in each.items()} | seen.values)

    def _action(self, agent: Any, mask: Any) -> Any:
        space = self.spaces[agent]
        if mask is None or not hasattr(space, "n"):
            return space.sample()
        return int(self.rng.choice(np.flatnonzero(mask))) + int(space.start)

    def _seen(self, env: Any, obs: dict[Any, Any], infos: dict[Any, Any]) -> _Seen:
        values: dict[str, Any] = {"the list of living agents": list(env.agents)}
        for agent, value in obs.items():
            if isinstance(value, dict):
                values |= {f"the action mask of {agent}" if k == "action_mask" else f"{k} of {agent}": copied(v) for k, v in value.items()}
            else:
                values[f"the observation of {agent}"] = copied(value)
        for agent, info in infos.items():
            if info and "action_mask" in info:
                values[f"the action mask of {agent}"] = copied(info["action_mask"])
        if env.agents and callable(getattr(env, "state", None)) and callable(getattr(getattr(env, "unwrapped", env), "state", None)):
            try:
                values["state()"] = copied(env.state())
            except NotImplementedError:
                return _Seen(values)
        return _Seen(values)


def copied(value: Any) -> Any:
    """What is seen now, even if the environment writes into the same memory later."""
    return np.array(value) if isinstance(value, np.ndarray) else value


def first_difference(one: _Seen, other: _Seen) -> str:
    """What is seen differently, "" where nothing is."""
    for name, value in one.values.items():
        if name not in other.values or not same_bits(value, other.values[name]):
            return name
    return next((name for name in other.values if name not in one.values), "")


def same_bits(one: Any, other: Any) -> bool:
    """Equal type, shape and bits (NaN equals itself)."""
    a, b = np.asarray(one), np.asarray(other)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(a.dtype == object and one == other) or a.tobytes() == b.tobytes()


def global_streams() -> tuple[Any, ...]:
    """Where the generators of the whole process stand."""
    # Read, never drawn from: a task that draws from them is to be found out, and they are put back where they stood.
    return np.random.mtrand._rand.get_state(), random._inst.getstate(), torch.default_generator.get_state()


def set_global_streams(streams: tuple[Any, ...]) -> None:
    """Put them back there."""
    np.random.mtrand._rand.set_state(streams[0])
    random._inst.setstate(streams[1])
    torch.default_generator.set_state(streams[2])


def moved_stream(before: tuple[Any, ...]) -> str:
    """The name of the one that has moved since, "" where none has."""
    now = global_streams()
    same = (
        all(np.array_equal(mine, its) for mine, its in zip(before[0], now[0], strict=True)),
        before[1] == now[1],
        torch.equal(before[2], now[2]),
    )
    return next((name for name, unmoved in zip(_GLOBAL, same, strict=True) if not unmoved), "")
