"""What a treated agent is paid instead of, or on top of, the team's reward.

The diligence bonus is a corrected form of LAIES' (Liu et al., ICML 2023), which rewards actions that change the *external* state: what is
no agent's own, such as food or prey. LAIES compares a learned model's forecasts, sums the bonus over agents and gives everybody the sum,
so that nobody gains by being diligent itself. Here

    b_i = 1[external state after (s, u) differs from that after (s, (u_-i, c_i))]

by exact copies of the state (c_i: the no-op, else a uniform action), for the treated agent alone. Independent learners: it is added to that
agent's pay. vdn and qmix learn one value of the team, so there it is added to the team's reward, and is the agent's own only as far as the
mixer tells agents apart. Its weight fades to 0 over the treatment, since to change something need not help: the watch stays the judge.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..envs.base import TeamEnv, View
from ..envs.foraging import Foraging
from ..envs.native import NativeEnv
from ..envs.predator_prey import PredatorPrey
from ..envs.randomness import COUNTERFACTUAL, Clock, split, uniform
from ..envs.uphill import Uphill
from .errors import ConfigError
from .policies import Pay
from .probes import noop_actions, reference_action

WEIGHT = 0.1
"""Of the bonus when a treatment begins, in raw reward."""

EXTERNAL: dict[type, Callable[[Any], Tensor]] = {
    Foraging: lambda task: task.foods.flatten(1),
    PredatorPrey: lambda task: torch.cat([task.prey, task.caught.to(task.prey.dtype)], 1),
    Uphill: lambda task: task.height,
}
"""Native tasks whose external state is known: their moment -> (env, feature)."""


def refuse_diligence(env: TeamEnv) -> None:
    """ConfigError for a task whose external state is not known."""
    if type(env) not in EXTERNAL:
        known = ", ".join(sorted(kind.__name__ for kind in EXTERNAL))
        raise ConfigError(
            f"--cure diligence rewards changes of what is no agent's own, and what that is on {env.spec.name} is not known "
            f"(marl/diligence.py knows it of {known})",
            remedy="--cure reset",
        )


def diligence(env: TeamEnv, state: Any, view: View, action: Int[Tensor, "env agent"], clock: Clock, agent: int) -> Bool[Tensor, " env"]:
    """b_i of one agent for the joint action taken in `state`."""
    assert isinstance(env, NativeEnv)
    noop = noop_actions(env.spec)
    absent, _ = reference_action(noop, view.available, uniform(split(clock.key(COUNTERFACTUAL), action.shape[1])))
    without = action.clone()
    without[:, agent] = absent[:, agent]
    external = EXTERNAL[type(env)]
    with_it, without_it = (external(env.advance(state.task, joint, state.clock)[0]) for joint in (action, without))
    return (with_it != without_it).any(-1)


@dataclass(frozen=True)
class TreatedPay:
    """What agents are paid where some are treated: (env, agent)."""

    own: Pay | None
    """Difference rewards of all agents."""
    counterfactual: tuple[int, ...] = ()
    """Agents paid by `own`."""
    diligent: tuple[tuple[int, float], ...] = ()
    """Agents with a bonus, and its weight."""

    def __call__(
        self,
        env: TeamEnv,
        state: Any,
        view: View,
        action: Int[Tensor, "env agent"],
        reward: Float[Tensor, " env"],
        clock: Clock,
    ) -> Float[Tensor, "env agent"]:
        paid = reward.unsqueeze(-1).repeat(1, action.shape[1]).to(torch.float32)
        if self.counterfactual and self.own is not None:
            own, chosen = self.own(env, state, view, action, reward, clock), list(self.counterfactual)
            paid[:, chosen] = own[:, chosen]
        for agent, weight in self.diligent:
            paid[:, agent] += weight * diligence(env, state, view, action, clock, agent)
        return paid
