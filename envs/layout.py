"""What is fixed about a ParallelEnv: its agents in one order, how their spaces become rows, what its global state is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pettingzoo import AECEnv

from .errors import ContractBroken, UnsupportedTask
from .spaces import ActionPlan, ObsPlan, holds_small_numbers, plan_action, plan_obs


@dataclass(frozen=True)
class Layout:
    """What is fixed about a task: who, how wide, and how it is judged."""

    name: str
    agents: tuple[str, ...]
    obs_plans: tuple[ObsPlan, ...]
    action_plans: tuple[ActionPlan, ...]
    obs_dim: int
    num_actions: int
    obs_dtype: type
    obs_shape: tuple[int, ...] | None
    """(height, width, channels) where all agents observe images of that one shape."""
    state_shape: tuple[int, ...] | None
    """Shape of `env.state()`; None: the state is all observations side by side."""
    state_dim: int
    state_is_image: bool
    masked: bool
    """The environment gives action masks."""
    team_reward: str
    """shared, sum or mean."""
    time_limit: int | None

    @cached_property
    def columns(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and type of one copy's entry in each array of a time step."""
        agents = len(self.agents)
        return {
            "obs": ((agents, self.obs_dim), self.obs_dtype),
            "state": ((self.state_dim,), np.float32),
            "available": ((agents, self.num_actions), np.bool_),
            "alive": ((agents,), np.bool_),
            "agent_reward": ((agents,), np.float32),
            "reward": ((), np.float32),
            "terminated": ((), np.bool_),
            "truncated": ((), np.bool_),
            "step": ((), np.int64),  # env steps of the episode
        }


def lay_out(env: Any, name: str, team_reward: str, time_limit: int | None, state: str | None, discrete_remedy: str) -> Layout:
    """Read the spaces, start one episode, and see whether there is a global state and whether actions are masked."""
    if isinstance(env, AECEnv):
        raise UnsupportedTask(
            f"{name} is an AEC environment: its agents act one after another.",
            "If they may act at once, give pettingzoo.utils.conversions.aec_to_parallel(env).",
        )
    if not hasattr(env, "possible_agents"):
        raise UnsupportedTask(f"{name} gives a {type(env).__name__}, not a PettingZoo ParallelEnv (it has no possible_agents).", "Wrap it.")
    agents = tuple(env.possible_agents)
    if isinstance(env.possible_agents, set | frozenset):  # its order is another one in every process
        agents = tuple(sorted(agents, key=str))
    if not agents or len(set(agents)) < len(agents):
        raise ContractBroken("possible-agents", f"possible_agents is {list(agents)}; it must name at least one agent and none twice")
    action_plans = tuple(plan_action(agent, env.action_space(agent), discrete_remedy) for agent in agents)
    obs_plans = tuple(plan_obs(agent, env.observation_space(agent)) for agent in agents)
    obs_dim = max(plan.width for plan in obs_plans)
    all_images = all(plan.is_image for plan in obs_plans)
    _, infos = unpack(env.reset(seed=0), 2, "reset-returns", "reset")
    probe = None if state == "observations" else _probe_state(env)
    if probe is None and state == "env":
        raise ContractBroken("state", f"{name} has no state()")
    return Layout(
        name=name,
        agents=agents,
        obs_plans=obs_plans,
        action_plans=action_plans,
        obs_dim=obs_dim,
        num_actions=max(plan.count for plan in action_plans),
        obs_dtype=np.uint8 if all_images else np.float32,
        obs_shape=obs_plans[0].image if len({(plan.shape, plan.is_image) for plan in obs_plans}) == 1 else None,
        state_shape=None if probe is None else probe.shape,
        state_dim=len(agents) * obs_dim if probe is None else probe.size,
        state_is_image=all_images if probe is None else _is_pixels(env, probe),
        masked=any(plan.in_dict for plan in obs_plans) or any("action_mask" in info for info in infos.values()),
        team_reward=team_reward,
        time_limit=time_limit,
    )


def _is_pixels(env: Any, state: np.ndarray) -> bool:
    return state.dtype == np.uint8 and not holds_small_numbers(getattr(env, "state_space", None))


def _probe_state(env: Any) -> np.ndarray | None:
    """`env.state()` after a reset, or None where the environment has none."""
    inner = getattr(env, "unwrapped", env)  # a wrapper always has the method; some environments keep a dict under this name
    if not callable(getattr(env, "state", None)) or not callable(getattr(inner, "state", None)):
        return None
    try:
        state = np.asarray(env.state())
    except NotImplementedError:
        return None
    if state.dtype.kind not in "biuf":
        raise UnsupportedTask(f"state() gives {state.dtype} values, not numbers.", "Give one array of numbers.")
    return state


def unpack(result: Any, count: int, rule: str, method: str) -> Sequence[Any]:
    """The dicts that `reset` or `step` gave; ContractBroken where they are not `count` dicts."""
    if not isinstance(result, tuple) or len(result) != count:
        got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise ContractBroken(rule, f"{method}() must return a tuple of {count} dicts, not {got}")
    for part in result:
        if not isinstance(part, dict):
            raise ContractBroken(rule, f"{method}() must return a tuple of {count} dicts; one is {type(part).__name__}")
    return result
