"""PettingZoo's rules on a raw ParallelEnv, before it is adapted: every broken one by name, none as a crash."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .check_step import Broken
from .errors import ContractBroken
from .layout import lay_out, unpack
from .live import STATE_IS_GONE
from .randomness import mix_seed
from .spaces import ObsPlan

_MAX_STEPS = 300


def broken_parallel_rules(maker: Callable[[], Any], *, episodes: int = 3, seed: int = 0) -> list[Broken]:
    """Every rule one environment breaks in random play, at most one sentence each. The environment is closed afterwards.

    Raises:
        UnsupportedTask: turn-based, actions or observations that cannot be read.
    """
    env = maker()
    found: dict[str, Broken] = {}
    try:
        for item in _broken(env, episodes, seed):
            found.setdefault(item.rule, item)
    except ContractBroken as error:  # past this point nothing more can be said
        found.setdefault(error.rule, Broken(error.rule, error.sentence))
    env.close()
    return list(found.values())


def _broken(env: Any, episodes: int, seed: int) -> Iterator[Broken]:
    layout = lay_out(env, type(env).__name__, "shared", None, None, "Wrap it.")
    plans = dict(zip(layout.agents, layout.obs_plans, strict=True))
    for agent in layout.agents:
        if env.action_space(agent) != env.action_space(agent) or env.observation_space(agent) != env.observation_space(agent):
            yield Broken("same-space", f"the spaces of {agent} change from call to call")
    rng, played = np.random.default_rng(mix_seed(seed, 1)), 0
    for episode in range(episodes):
        obs, infos = unpack(env.reset(seed=mix_seed(seed, episode)), 2, "reset-returns", "reset")
        gone: set[Any] = set()
        yield from _broken_seen(plans, list(env.agents), obs, infos, 0, layout.masked)
        while env.agents and played < _MAX_STEPS:
            acting, played = list(env.agents), played + 1
            choices = {agent: _sample(layout, agent, obs.get(agent), infos.get(agent), rng) for agent in acting}
            obs, rewards, terminations, truncations, infos = unpack(env.step(choices), 5, "step-returns", "step")
            live = list(env.agents)
            gone |= set(acting) - set(live)
            for agent in live:
                if agent in gone and agent not in acting:
                    yield Broken("revival", f"{agent} left the episode and is in env.agents again at step {played}")
            yield from _broken_outcome(acting, live, rewards, terminations, truncations, played)
            yield from _broken_seen(plans, live, obs, infos, played, layout.masked)
            if layout.state_shape is not None and live:
                yield from _broken_state(env, layout.state_shape, played)


def _sample(layout: Any, agent: Any, seen: Any, info: Any, rng: np.random.Generator) -> Any:
    """A random action, allowed by the mask where there is one."""
    index = layout.agents.index(agent)
    plan = layout.action_plans[index]
    mask = seen.get("action_mask") if isinstance(seen, dict) else (info or {}).get("action_mask")
    allowed = np.flatnonzero(mask) if mask is not None else np.arange(plan.count)
    return plan.decode(int(rng.choice(allowed)) if len(allowed) else 0)


def _broken_seen(plans: dict[Any, ObsPlan], live: list, obs: dict, infos: dict, step: int, masked: bool) -> Iterator[Broken]:
    """Observations and masks of the living agents."""
    for agent in [*live, *obs]:
        if agent not in plans:
            yield Broken("unknown-agent", f"{agent!r} at step {step} is not one of possible_agents {list(plans)}")
    for agent in (agent for agent in live if agent in plans):
        value, plan = obs.get(agent), plans[agent]
        info = infos.get(agent) or {}
        mask = value.get("action_mask") if isinstance(value, dict) else info.get("action_mask")
        inner = value.get("observation") if isinstance(value, dict) else value
        if inner is None:
            yield Broken("observation-missing", f"{agent} has no observation at step {step}")
            continue
        row = np.zeros(plan.width, dtype=np.float32)
        try:
            plan.write(inner, row)
        except ContractBroken as error:
            yield Broken(error.rule, f"{agent} at step {step}: {error.sentence}")
        if not np.isfinite(row).all():
            yield Broken("observation-finite", f"{agent} observes NaN or infinity at step {step}")
        if mask is None and masked:
            yield Broken("action-mask", f"{agent} has no action mask at step {step}; give one at every step")
        elif mask is not None and not np.any(mask):
            yield Broken("action-mask", f"the action mask of {agent} at step {step} allows no action at all")


def _broken_outcome(acting: list, live: list, rewards: dict, terminations: dict, truncations: dict, step: int) -> Iterator[Broken]:
    """Rewards and flags of the agents that acted."""
    for agent in acting:
        reward = rewards.get(agent)
        if reward is None or np.shape(reward) not in ((), (1,)) or not np.isfinite(reward):
            yield Broken("reward-number", f"the reward of {agent} at step {step} is {reward!r}, not one finite number")
        flags = terminations.get(agent), truncations.get(agent)
        if None in flags:
            yield Broken("flag-missing", f"{agent} acted at step {step} but has no terminated or no truncated flag")
        elif any(flags) and agent in live:
            yield Broken("agents-removed", f"{agent} is done at step {step} but still in env.agents; remove it in that step")


def _broken_state(env: Any, shape: tuple[int, ...], step: int) -> Iterator[Broken]:
    try:
        state = np.asarray(env.state())
    except STATE_IS_GONE as error:
        yield Broken("state", f"state() fails at step {step} of a running episode: {error!r}")
        return
    if state.shape != shape or not np.isfinite(state).all():
        yield Broken("state", f"state() at step {step} has shape {state.shape}, or is not finite; after the first reset it had {shape}")
