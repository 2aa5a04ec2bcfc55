"""How much memory a replay takes and may take: known from the task's shapes alone, before a network or a tensor is made."""

import os
from pathlib import Path

import torch
from torch import Tensor

from ..envs.base import TeamSpec
from .config import ReplayConfig
from .data import Rollout
from .errors import ConfigError
from .presets import image_preset


def example_rollout(spec: TeamSpec) -> Rollout:
    """One step of one copy as shapes and types without values (meta tensors), for the replay's layout."""

    def blank(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(1, 1, *shape, dtype=dtype, device="meta")

    agents = spec.num_agents
    obs, state = blank(agents, spec.obs_dim, dtype=spec.obs_dtype), blank(spec.state_dim)
    available, alive = blank(agents, spec.num_actions, dtype=torch.bool), blank(agents, dtype=torch.bool)
    flag, count = blank(dtype=torch.bool), blank(dtype=torch.int64)
    return Rollout(
        obs=obs, state=state, available=available, alive=alive, action=blank(agents, dtype=torch.int64), behaviour=blank(agents),
        reward=blank(), agent_reward=blank(agents), terminated=flag, truncated=flag, episode_start=flag, valid=flag,
        policy_version=count, actor=count, next_obs=obs, next_state=state, next_available=available, next_alive=alive,
    )  # fmt: skip


def time_slots(config: ReplayConfig) -> int:
    """Time steps of each copy that the ring holds: sampling split keeps the fresh batch only, whatever the capacity."""
    stored = config.capacity if config.sampling == "uniform" else config.num_envs * (config.rollout_steps + config.burn_in)
    return max(stored // config.num_envs, config.rollout_steps)


def refuse_replay(config: ReplayConfig, bytes_per_step: int, memory: int, *, seeds: int = 1) -> None:
    """ConfigError where the ring would take more than half of the memory: a checkpoint needs a second copy while it is written.

    `seeds`: how many runs share the ring, each with its part of the capacity and of the copies.
    """
    steps = time_slots(config) * config.num_envs
    if steps * bytes_per_step <= memory // 2:
        return
    fits = f"{memory // 2 // bytes_per_step // seeds:,}"
    remedy = f"replay.capacity to at most {fits}"
    if config.sampling == "split":
        remedy = f"replay.rollout_steps or replay.num_envs to a batch of at most {fits}"
    what, fewer = ("the replay", "") if seeds == 1 else (f"the replays of {seeds} seeds together", ", or train fewer seeds at once")
    raise ConfigError(
        f"{what} would take {human_bytes(steps * bytes_per_step)} ({steps:,} joint transitions of {bytes_per_step:,} bytes), more than "
        f"half of this machine's {human_bytes(memory)} (a checkpoint holds a second copy while it is written): lower {remedy}{fewer}"
    )


def refuse_images(config: ReplayConfig, spec: TeamSpec, bytes_per_step: int, memory: int) -> None:
    """ConfigError where `replay.capacity` transitions of an image task would not fit, with the preset that makes its images smaller.

    The capacity counts whatever the sampling: nobody means to learn from whole screens because an option was left out.
    """
    if spec.obs_shape is None or spec.obs_dtype != torch.uint8 or config.capacity * bytes_per_step <= memory // 2:
        return
    smaller, fits = image_preset(spec.name), memory // 2 // bytes_per_step
    size = human_bytes(config.capacity * bytes_per_step)
    ways = [f"--preset {smaller}"] if smaller else ["--env.resize 42x42 (and --env.color-reduction full where there are three colours)"]
    ways += [] if smaller else ["--preset images"]
    ways += [f"a replay.capacity of at most {fits:,}"] if fits else []
    raise ConfigError(
        f"each of the {spec.num_agents} agents of {spec.name} observes an image of {' x '.join(map(str, spec.obs_shape))} bytes: "
        f"{config.capacity:,} joint transitions (replay.capacity) of {human_bytes(bytes_per_step)} would take "
        f"{size}, more than half of this machine's {human_bytes(memory)}: use {', or '.join(ways)}",
        remedy=f"use {ways[0]}",
    )


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
