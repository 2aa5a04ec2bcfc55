"""The rules that one play shows by itself: what the spec promises, and what every step must look like."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Step, TeamSpec, View


@dataclass(frozen=True)
class Broken:
    """One broken rule, and the sentence that says where."""

    rule: str
    sentence: str


def broken_spec(spec: TeamSpec) -> Iterator[Broken]:
    """The spec agrees with itself."""
    num_agents = spec.num_agents
    if num_agents < 1 or len(set(spec.agents)) < num_agents:
        yield Broken("spec", f"agents is {spec.agents}; it must name at least one and none twice")
    for size in ("num_actions", "obs_dim", "state_dim"):
        if getattr(spec, size) < 1:
            yield Broken("spec", f"{size} is {getattr(spec, size)}; it must be at least 1")
    for names in ("action_names", "obs_names"):
        labels, most = getattr(spec, names), spec.num_actions if names == "action_names" else spec.obs_dim
        if labels and (len(labels) != num_agents or max(map(len, labels)) > most):
            yield Broken("spec", f"{names} must hold one tuple per agent ({num_agents}) of at most {most} labels")
    if spec.state_is_obs and spec.state_dim != num_agents * spec.obs_dim:
        yield Broken("spec", f"state_is_obs needs a state_dim of {num_agents} x {spec.obs_dim}, not {spec.state_dim}")
    if spec.noop is not None and (len(spec.noop) != num_agents or any(not 0 <= a < spec.num_actions for a in spec.noop if a is not None)):
        yield Broken("spec", f"noop is {spec.noop}; it needs one action below {spec.num_actions} (or None) for each of {num_agents} agents")
    if spec.return_range is not None and spec.return_range[0] > spec.return_range[1]:
        yield Broken("spec", f"return_range is {spec.return_range}; the lowest return comes first")
    if spec.team_reward not in ("shared", "sum", "mean"):
        yield Broken("spec", f"team_reward is {spec.team_reward!r}; it is one of shared, sum, mean")
    if spec.episode_limit is not None and spec.episode_limit < 1:
        yield Broken("spec", f"episode_limit is {spec.episode_limit}; it is at least 1 or None")


def broken_in_play(spec: TeamSpec, first: View, actions: list[Tensor], steps: list[Step], views: list[View]) -> Iterator[Broken]:
    """Every view and step by itself, then the length and the return of the episodes."""
    malformed = list(_broken_form(spec, first, steps, views))
    yield from malformed
    if any(item.rule in ("shapes", "dtypes") for item in malformed):
        return
    for t, view in enumerate([first, *views]):
        yield from _broken_view(spec, view, f"after step {t}")
    for t, step in enumerate(steps):
        yield from _broken_view(spec, step.after, f"in `Step.after` of step {t + 1}")
        if not bool(step.reward.isfinite().all()):
            yield Broken("reward", f"the team reward of step {t + 1} is {step.reward.tolist()}, not finite")
        if step.agent_reward is not None and not bool(step.agent_reward.isfinite().all()):
            yield Broken("reward", f"an agent's reward of step {t + 1} is not finite")
        if bool((step.terminated & step.truncated).any()):
            yield Broken("flags", f"a copy is both terminated and truncated at step {t + 1}; it can only be one of them")
    yield from _broken_episodes(spec, steps)


def _broken_form(spec: TeamSpec, first: View, steps: list[Step], views: list[View]) -> Iterator[Broken]:
    """Shapes and dtypes as the spec says."""
    count = len(first.obs)
    per_agent = (count, spec.num_agents)
    expected = {
        "obs": ((*per_agent, spec.obs_dim), spec.obs_dtype),
        "state": ((count, spec.state_dim), torch.float32),
        "available": ((*per_agent, spec.num_actions), torch.bool),
        "alive": (per_agent, torch.bool),
    }
    of_step = {"reward": torch.float32, "terminated": torch.bool, "truncated": torch.bool}
    for view in [first, *views, *(step.after for step in steps)]:
        for name, (shape, dtype) in expected.items():
            yield from _broken_tensor(f"View.{name}", getattr(view, name), shape, dtype)
    for step in steps:
        for name, dtype in of_step.items():
            yield from _broken_tensor(f"Step.{name}", getattr(step, name), (count,), dtype)
        if step.agent_reward is not None:
            yield from _broken_tensor("Step.agent_reward", step.agent_reward, per_agent, torch.float32)


def _broken_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[Broken]:
    if tuple(tensor.shape) != shape:
        yield Broken("shapes", f"{name} has shape {tuple(tensor.shape)}; the spec says {shape}")
    elif tensor.dtype != dtype:
        yield Broken("dtypes", f"{name} is {tensor.dtype}; it must be {dtype}")


def _broken_view(spec: TeamSpec, view: View, when: str) -> Iterator[Broken]:
    for name in ("obs", "state"):
        if not bool(getattr(view, name).isfinite().all()):
            yield Broken("finite", f"NaN or infinity in {name} {when}")
    if not bool(view.available.any(-1).all()):
        row, agent = (~view.available.any(-1)).nonzero()[0].tolist()
        yield Broken("available", f"{spec.agents[agent]} of copy {row} has no available action {when}")
    if spec.state_is_obs and not torch.equal(view.state, _side_by_side(view.obs)):
        yield Broken("state", f"the spec says that the state is the observations side by side, and it is not {when}")
    dead = ~view.alive
    only_first = torch.zeros(spec.num_actions, dtype=torch.bool, device=dead.device)
    only_first[0] = True
    wrong = dead & ((view.obs != 0).any(-1) | (view.available != only_first).any(-1))
    if bool(wrong.any()):
        row, agent = wrong.nonzero()[0].tolist()
        yield Broken("dead-agents", f"{spec.agents[agent]} of copy {row} is not alive {when}; it must see zeros and have action 0 alone")
    for agent, noop in zip(range(spec.num_agents), spec.noop or (), strict=False):
        if noop is not None and noop < spec.num_actions and bool((view.alive[:, agent] & ~view.available[:, agent, noop]).any()):
            yield Broken("noop", f"the spec names action {noop} as the no-op of {spec.agents[agent]}, and it is not available {when}")


def _side_by_side(obs: Tensor) -> Tensor:
    """All observations in one row, bytes scaled to [0, 1]: what the replay rebuilds instead of storing it."""
    row = obs.flatten(1)
    return row.to(torch.float32) / 255 if row.dtype == torch.uint8 else row


def _broken_episodes(spec: TeamSpec, steps: list[Step]) -> Iterator[Broken]:
    """No episode is longer than the limit or pays outside the range."""
    if not steps:
        return
    length = torch.zeros_like(steps[0].reward, dtype=torch.int64)
    total = torch.zeros_like(steps[0].reward, dtype=torch.float64)
    for t, step in enumerate(steps):
        length, total = length + 1, total + step.reward
        done = step.terminated | step.truncated
        if spec.episode_limit is not None and bool((length > spec.episode_limit).any()):
            yield Broken("episode-limit", f"an episode runs for {int(length.max())} env steps; the spec says at most {spec.episode_limit}")
        if spec.truncates_at_limit and spec.episode_limit is not None and bool((step.truncated & (length < spec.episode_limit)).any()):
            yield Broken(
                "truncates-at-limit", f"an episode is truncated at step {t + 1}; the spec says only after {spec.episode_limit} env steps"
            )
        if spec.return_range is not None and bool(done.any()):
            low, high = spec.return_range
            margin = 1e-4 * max(1.0, abs(low), abs(high))
            outside = done & ((total < low - margin) | (total > high + margin))
            if bool(outside.any()):
                yield Broken(
                    "return-range",
                    f"an episode that ends at step {t + 1} pays {float(total[outside][0]):g}; the spec says {low:g} to {high:g}",
                )
        length, total = length * ~done, total * ~done
