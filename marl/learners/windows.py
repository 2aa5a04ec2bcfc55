"""What every learner does with a window: padding made harmless, burn-in cut off, utilities of the views reached."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...envs.base import TeamSpec
from ..agents import UtilityNetwork
from ..data import Minibatch, Rollout


def utility_of(networks: nn.ModuleDict) -> UtilityNetwork:
    """The agents' network."""
    utility = networks["utility"]
    assert isinstance(utility, UtilityNetwork)
    return utility


def without_padding(minibatch: Minibatch) -> Minibatch:
    """Zeros where a step is not real: a masked loss alone does not stop NaN, since 0 * NaN is NaN in the gradient."""
    if not minibatch.padded:
        return minibatch
    steps = minibatch.steps
    seen = ("obs", "state", "next_obs", "next_state")
    padding = {name: ~steps.valid.view(*steps.valid.shape, *[1] * (getattr(steps, name).dim() - 2)) for name in seen}
    cleaned = {name: getattr(steps, name).masked_fill(padding[name], 0) for name in seen}
    return replace(minibatch, steps=replace(steps, **cleaned))


def after_burn_in(minibatch: Minibatch) -> Rollout:
    """The steps that are learned from."""
    if not minibatch.burn_in:
        return minibatch.steps
    steps = minibatch.steps
    values = {name: getattr(steps, name)[minibatch.burn_in :] for name in steps.__dataclass_fields__ if name != "extras"}
    return Rollout(**values, extras={name: value[minibatch.burn_in :] for name, value in steps.extras.items()})


def follow(
    utility: UtilityNetwork,
    steps: Rollout,
    q: Float[Tensor, "time env agent action"],
    memories: Float[Tensor, "time env agent memory"],
    last_views: int,
) -> Float[Tensor, "time env agent action"]:
    """Utilities of the view each step reached, from the window's own `q` and `memories` wherever the next step shows that view.

    That is everywhere but at the window's end and where an episode was truncated; those views are looked at, at most
    `last_views` of them before the window's end. After a termination what stands there means nothing.
    """
    time, windows = steps.truncated.shape
    rows = [torch.full((1, windows), time - 1, device=q.device)]
    if last_views:
        rows.append(steps.truncated[:-1].to(torch.float32).topk(last_views, 0).indices)
    at = torch.cat(rows)[..., None, None]
    seen = steps.next_obs.gather(0, at.expand(-1, -1, *steps.next_obs.shape[2:]))
    looked, _ = utility(seen, memories.gather(0, at.expand(-1, -1, *memories.shape[2:])))
    return torch.cat((q[1:], q[-1:])).scatter(0, at.expand(-1, -1, *q.shape[2:]), looked)


def most_truncations(spec: TeamSpec, steps: int) -> int | None:
    """How many of a copy's `steps` consecutive steps can be truncated at most; None where the task promises nothing."""
    if not spec.truncates_at_limit or spec.episode_limit is None:
        return None
    return -(-steps // spec.episode_limit)


def next_utilities(utility: UtilityNetwork, minibatch: Minibatch, memories: Tensor | None) -> Float[Tensor, "time env agent action"]:
    """Utilities of the view each step reached, the memory being the one left by that step (never another episode's)."""
    steps = minibatch.steps
    if utility.memory_dim and memories is None:
        _, memories = utility.unroll(steps.obs, steps.episode_start, burn_in=minibatch.burn_in)
    next_obs = steps.next_obs[minibatch.burn_in :]
    q, _ = utility(next_obs, next_obs[..., :0].float() if memories is None else memories)
    return q
