"""One running ParallelEnv, read into preallocated rows: who is alive, what is seen, what was paid, how it ended.

Everything a PettingZoo environment may do within its rules is made plain here (agents that die or leave, masks in the
observation or in the infos, a state that is gone after the end); what its rules forbid raises `ContractBroken`, which
names the rule, the agent and the step.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .errors import ContractBroken, UnsupportedTask
from .layout import Layout, unpack

_MISSING = object()
# What `state()` of published environments raises once the episode is over and its world is gone.
STATE_IS_GONE = (AttributeError, TypeError, KeyError, IndexError, ValueError, RuntimeError)


class Rows:
    """The arrays of one time step of several copies: new ones, written once and then handed out, or in memory given by the caller."""

    def __init__(self, layout: Layout, count: int, memory: memoryview | None = None):
        """`memory`: at least `Rows.size(layout, count)` bytes, which the arrays share; a row keeps its place whatever `count` is."""
        self.fields: dict[str, np.ndarray] = {}
        at, stride = 0, Rows.size(layout, 1) if memory is not None else 0
        for name, (shape, dtype) in layout.columns.items():
            if memory is None:
                self.fields[name] = np.zeros((count, *shape), dtype)
            else:
                inner = np.empty(shape, dtype=dtype)
                strides = (stride, *inner.strides)
                self.fields[name] = np.ndarray((count, *shape), dtype=dtype, buffer=memory, offset=at, strides=strides)
                at += _aligned(inner.nbytes)
        self.obs, self.state = self.fields["obs"], self.fields["state"]
        self.available, self.alive = self.fields["available"], self.fields["alive"]
        self.agent_reward, self.reward = self.fields["agent_reward"], self.fields["reward"]
        self.terminated, self.truncated = self.fields["terminated"], self.fields["truncated"]
        self.step = self.fields["step"]

    @staticmethod
    def size(layout: Layout, count: int) -> int:
        """Bytes of `count` rows in given memory."""
        return count * sum(_aligned(prod(shape) * np.dtype(dtype).itemsize) for shape, dtype in layout.columns.values())

    def view_of(self, index: int) -> tuple[np.ndarray, ...]:
        """What is seen in one copy: obs, state, available, alive."""
        return self.obs[index], self.state[index], self.available[index], self.alive[index]

    def put_view(self, index: int, view: tuple[np.ndarray, ...]) -> None:
        self.obs[index], self.state[index], self.available[index], self.alive[index] = view

    def put(self, where: "list[int] | slice", other: "Rows", source: "list[int] | slice") -> None:
        """The rows `source` of `other` into the rows `where`."""
        for name, array in self.fields.items():
            array[where] = other.fields[name][source]


@dataclass(slots=True)
class Slot:
    """An environment and what the next step needs to know of the last one: the row in which it was seen."""

    env: Any
    seen: Rows | None = None
    at: int = 0
    whole: bool = False
    """Every agent is alive."""
    step: int = 0
    over: bool = False

    @property
    def alive(self) -> np.ndarray:
        assert self.seen is not None
        return self.seen.alive[self.at]

    @property
    def state(self) -> np.ndarray:
        assert self.seen is not None
        return self.seen.state[self.at]

    def stand(self, rows: Rows, index: int) -> None:
        """Where `rows` shows it to stand, in row `index`."""
        self.seen, self.at, self.whole = rows, index, bool(rows.alive[index].all())
        self.over = bool(rows.terminated[index] or rows.truncated[index])


def _aligned(size: int) -> int:
    return -size % 64 + size


def begin(env: Any, layout: Layout, seed: int, rows: Rows, index: int) -> None:
    """Start an episode of `env` and write its first view into row `index`."""
    obs, infos = unpack(env.reset(seed=seed), 2, "reset-returns", "reset")
    live = frozenset(env.agents)
    _refuse_strangers(layout, (live, obs), 0)
    if not live:
        raise ContractBroken("agents-at-reset", "no agent is alive after reset")
    write_view(env, layout, obs, infos, live, rows, index, step=0)
    write_state(env, layout, rows, index, step=0, last=None, over=False)
    check_finite(layout, rows, index, 0)
    rows.step[index] = 0


def play(env: Any, actions: dict[str, Any]) -> Sequence[Any]:
    """What one joint action brought: observations, rewards, terminations, truncations, infos."""
    return unpack(env.step(actions), 5, "step-returns", "step")


def read_step(
    env: Any, layout: Layout, result: Sequence[Any], acting: Sequence[int], rows: Rows, index: int, *, state: np.ndarray, step: int
) -> None:
    """What `env.step` gave after the agents `acting` acted in the global state `state`, into row `index`; `step` counts it from 1."""
    agents = layout.agents
    obs, rewards, terminations, truncations, infos = result
    live = frozenset(env.agents)
    _refuse_strangers(layout, (live, obs, rewards), step)
    _write_rewards(layout, acting, rewards, rows, index, step)
    ended_by_flag = [_flags(agents[i], terminations, truncations, live, step) for i in acting]
    seen, over = live, False
    if not live:  # the team's episode is over
        cut = [agents[i] for i, (_, truncated) in zip(acting, ended_by_flag, strict=True) if truncated]
        over = not cut and step != layout.time_limit
        rows.terminated[index], rows.truncated[index] = over, not over
        # Whoever lived to see the end keeps its last view; an agent that died while the others were cut off does not.
        seen = frozenset(cut) if cut else frozenset(agents[i] for i in acting)
    elif step == layout.time_limit:
        rows.truncated[index] = True
    write_view(env, layout, obs, infos, seen, rows, index, step=step, over=over)
    write_state(env, layout, rows, index, step=step, last=state, over=over)
    check_finite(layout, rows, index, step)
    rows.step[index] = step


def _refuse_strangers(layout: Layout, groups: Iterable[Iterable[str]], step: int) -> None:
    for group in groups:
        for agent in group:
            if agent not in layout.agents:
                raise ContractBroken("unknown-agent", f"{agent!r} at step {step} is not one of possible_agents {list(layout.agents)}")


def _flags(agent: str, terminations: dict, truncations: dict, live: frozenset, step: int) -> tuple[bool, bool]:
    terminated, truncated = terminations.get(agent), truncations.get(agent)
    if terminated is None or truncated is None:
        raise ContractBroken("flag-missing", f"{agent} acted at step {step} but has no terminated or no truncated flag")
    if (terminated or truncated) and agent in live:
        raise ContractBroken("agents-removed", f"{agent} is done at step {step} but still in env.agents; remove it in that step")
    return bool(terminated), bool(truncated)


def _write_rewards(layout: Layout, acting: Sequence[int], rewards: dict, rows: Rows, index: int, step: int) -> None:
    """Each acting agent's reward, and the team's: shared (all equal), sum, or mean over all agents, dead ones with 0."""
    paid = []
    for i in acting:
        reward = rewards.get(layout.agents[i])
        try:
            number = float(reward)  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError):
            raise ContractBroken(
                "reward-number", f"the reward of {layout.agents[i]} at step {step} is {reward!r}, not one number"
            ) from None
        if not -np.inf < number < np.inf:
            raise ContractBroken("reward-number", f"the reward of {layout.agents[i]} at step {step} is {number}, not a finite number")
        rows.agent_reward[index, i] = number
        paid.append(number)
    if layout.team_reward == "sum":
        rows.reward[index] = sum(paid)
    elif layout.team_reward == "mean":
        rows.reward[index] = sum(paid) / len(layout.agents)
    elif max(paid) - min(paid) > 1e-6 * max(1.0, abs(paid[0])):
        shown = ", ".join(f"{layout.agents[i]} {number:+g}" for i, number in zip(acting, paid, strict=True))
        raise UnsupportedTask(f"rewards differ between agents ({shown}): not a cooperative task.", "--team-reward sum forces it.")
    else:
        rows.reward[index] = paid[0]


def write_view(
    env: Any, layout: Layout, obs: dict, infos: dict, seen: Set[str], rows: Rows, index: int, *, step: int, over: bool = False
) -> None:
    """Observation, actions and life of each agent: one not in `seen` has zeros and action 0 alone."""
    available, alive = rows.available[index], rows.alive[index]
    for i, agent in enumerate(layout.agents):
        if agent not in seen:
            available[i, 0] = True
            continue
        alive[i] = True
        value, mask, plan = obs.get(agent, _MISSING), None, layout.obs_plans[i]
        if value is _MISSING or value is None:
            raise ContractBroken("observation-missing", f"{agent} has no observation at step {step}")
        if plan.in_dict:
            if not isinstance(value, dict) or not value.keys() >= {"observation", "action_mask"}:
                raise ContractBroken(
                    "observation-shape", f"{agent} at step {step}: the space is a Dict of observation and action_mask, the value is not"
                )
            value, mask = value["observation"], value["action_mask"]
        try:
            plan.write(value, rows.obs[index, i])
        except ContractBroken as broken:
            raise ContractBroken(broken.rule, f"{agent} at step {step}: {broken.sentence}") from None
        if mask is None:
            info = infos.get(agent)
            mask = info.get("action_mask") if info else None
        _write_mask(layout, i, mask, available[i], step, over)


def _write_mask(layout: Layout, i: int, mask: Any, row: np.ndarray, step: int, over: bool) -> None:
    agent, count = layout.agents[i], layout.action_plans[i].count
    if mask is None:
        if layout.masked and not over:  # after termination nothing is bootstrapped, so no mask is missed
            raise ContractBroken("action-mask", f"{agent} has no action mask at step {step}; give one at every step, the last one included")
        row[:count] = True
        return
    mask = np.asarray(mask)
    if mask.shape != (count,):
        raise ContractBroken("action-mask", f"the action mask of {agent} at step {step} has shape {mask.shape}; it has {count} actions")
    row[:count] = mask
    if not row.any():
        raise ContractBroken("action-mask", f"the action mask of {agent} at step {step} allows no action at all")


def write_state(env: Any, layout: Layout, rows: Rows, index: int, *, step: int, last: np.ndarray | None, over: bool) -> bool:
    """`env.state()`, else all observations side by side; whether it holds numbers that may not be finite and were not seen before.

    Some environments have no state left after the last step. The state before it may stand in after termination,
    where the value is 0 whatever the state; after truncation it is bootstrapped from, so there the failure is an error.
    """
    row = rows.state[index]
    if layout.state_shape is None:
        seen = rows.obs[index].reshape(-1)
        row[:] = seen / np.float32(255) if layout.state_is_image else seen
        return False
    if over and last is not None:
        try:
            state = np.asarray(env.state())
        except STATE_IS_GONE:
            row[:] = last
            return False
    else:
        try:
            state = np.asarray(env.state())
        except STATE_IS_GONE as error:
            raise ContractBroken("state", f"state() fails at step {step} of a running or truncated episode: {error!r}") from error
    if state.shape != layout.state_shape:
        raise ContractBroken("state", f"state() has shape {state.shape} at step {step}, and {layout.state_shape} after the first reset")
    shaped = row.reshape(state.shape)  # flattening a transposed image would copy it first
    if layout.state_is_image:
        np.divide(state, np.float32(255), out=shaped, casting="unsafe")
    else:
        shaped[...] = state
    return state.dtype.kind not in "biu"


def check_finite(layout: Layout, rows: Rows, index: int, step: int) -> None:
    if layout.obs_dtype is not np.uint8 and not all_finite(rows.obs[index]):
        broken = next(agent for i, agent in enumerate(layout.agents) if not all_finite(rows.obs[index, i]))
        raise ContractBroken("observation-finite", f"{broken} observes NaN or infinity at step {step}")
    if layout.state_shape is not None and not all_finite(rows.state[index]):
        raise ContractBroken("state", f"state() holds NaN or infinity at step {step}")


def all_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or infinite; a search among bytes is several times faster than `all` on small arrays."""
    return 0 not in np.isfinite(array).tobytes()
