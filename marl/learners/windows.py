"""What every learner does with a window: padding made harmless, burn-in cut off, utilities of the views reached."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from ..agents import UtilityNetwork
from ..data import Minibatch, Rollout


def utility_of(networks: nn.ModuleDict) -> UtilityNetwork:
    """The agents' network."""
    utility = networks["utility"]
    assert isinstance(utility, UtilityNetwork)
    return utility


def without_padding(minibatch: Minibatch) -> Minibatch:
    """Zeros where a step is not real: a masked loss alone does not stop NaN, since 0 * NaN is NaN in the gradient."""
    steps = minibatch.steps
    if steps.valid.all():
        return minibatch
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


def next_utilities(utility: UtilityNetwork, minibatch: Minibatch, memories: Tensor | None) -> Float[Tensor, "time env agent action"]:
    """Utilities of the view each step reached, the memory being the one left by that step (never another episode's)."""
    steps = minibatch.steps
    if utility.memory_dim and memories is None:
        _, memories = utility.unroll(steps.obs, steps.episode_start, burn_in=minibatch.burn_in)
    next_obs = steps.next_obs[minibatch.burn_in :]
    q, _ = utility(next_obs, next_obs[..., :0].float() if memories is None else memories)
    return q
