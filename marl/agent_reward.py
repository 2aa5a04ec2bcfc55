"""What each agent is paid for its own action (`--agent-reward difference|shapley`): its credit for this step's team reward.

    difference   D_i = r(s, u) - r(s, (u_-i, c_i))                                     (Wolpert and Tumer 2001)
    shapley      phi_i of the game v(C) = r(s, (u_C, c_-C)): agents in C act as they did, the others take their reference action

c_i is the agent's no-op, or where it has none (or may not take it) a uniformly drawn available action; it never depends on u_i. Both
come from exact copies of the environment, made before the step and stepped once: n copies more for D, 2^n - 1 for Shapley. phi adds up
to r(s, u) - r(s, c); D does not add up to anything, and is 0 for agents who can stand in for each other.

Only the *immediate* reward is split. Where effects come at once D_i is aligned with the team's reward, since what is taken off does not
depend on u_i; an effect that comes later is credited to nobody at the time, and is met by an agent only in what it is paid itself later.
So a team whose members prepare what others finish may learn worse than from the team's own reward. An independent learner's value
becomes the discounted sum of what it will be paid. Evaluation and every return shown stay the team's.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..credit.base import all_coalitions, without_each
from ..credit.shapley import shapley_from_values
from ..envs.base import TeamEnv, View
from ..envs.native import NativeEnv
from ..envs.pettingzoo import PettingZooTeam
from ..envs.randomness import COUNTERFACTUAL, EXPLORE, Clock, copy_seeds, split, uniform
from .config import Config
from .errors import ConfigError
from .exploration import uniform_policy
from .probes import noop_actions, reference_action
from .replay import Replay

MOST_AGENTS = 6
"""Of Shapley rewards: 2^6 - 1 copies of every copy at every step."""
_LOOK_COPIES, _LOOK_STEPS, _ROUNDING = 32, 32, 1e-6
"""Random play in which somebody must be paid something, if the team is."""


@dataclass(frozen=True)
class AgentReward:
    """A linear function of the rewards of some coalitions."""

    noop: Int[Tensor, " agent"]
    coalitions: Bool[Tensor, "coalition agent"]
    """Who acts as it did in each extra copy; everybody is not among them, that reward is known."""
    weights: Float[Tensor, "agent coalition_and_all"]
    """Credit per reward of each of those coalitions, and last of everybody."""

    def __call__(
        self, env: TeamEnv, state: Any, view: View, action: Int[Tensor, "env agent"], reward: Float[Tensor, " env"], clock: Clock
    ) -> Float[Tensor, "env agent"]:
        """Each agent's pay for `action`, taken in `state` (before the step), which brought `reward`."""
        return self.split(self.others(env, state, view, action, clock), reward)

    def others(
        self, env: TeamEnv, state: Any, view: View, action: Int[Tensor, "env agent"], clock: Clock
    ) -> Float[Tensor, "coalition env"]:
        """The team reward of each coalition's joint action in copies of `state`, to be asked *before* `action` is played in it."""
        absent, _ = reference_action(self.noop, view.available, uniform(split(clock.key(COUNTERFACTUAL), action.shape[1])))
        joint = torch.where(self.coalitions.unsqueeze(1), action, absent)
        return immediate_rewards(env, state, joint)

    def split(self, others: Float[Tensor, "coalition env"], reward: Float[Tensor, " env"]) -> Float[Tensor, "env agent"]:
        """Each agent's pay, once the joint action has brought `reward`."""
        values = torch.cat([others, reward.unsqueeze(0)]).to(torch.float64)
        return torch.einsum("ac,ce->ea", self.weights, values).to(torch.float32)


def immediate_rewards(env: TeamEnv, state: Any, joint: Int[Tensor, "way env agent"]) -> Float[Tensor, "way env"]:
    """The team reward that each of several joint actions would bring in the same state; the state stays as it is."""
    ways, count = joint.shape[:2]
    copies = env.select(state, torch.arange(count).repeat(ways))
    if isinstance(env, NativeEnv):
        return env.advance(copies.task, joint.flatten(0, 1), copies.clock)[1].reward.view(ways, count)
    return env.step(copies, joint.flatten(0, 1), autoreset=False)[1].reward.view(ways, count)


def make_agent_reward(config: Config, env: TeamEnv, kind: str | None = None) -> AgentReward | None:
    """What a configuration asks for (or `kind`), None for the team's own reward; ConfigError where this task has no such reward."""
    kind, spec = kind or config.agent_reward, env.spec
    if kind == "team":
        return None
    if isinstance(env, PettingZooTeam) and not env.copy_check.exact:
        raise ConfigError(
            f"--agent-reward {kind} steps copies of every state, and {spec.name} is not copied exactly: {env.copy_check.reason}",
            remedy="take a task that is copied exactly (docs/forks.md; without --workers), or leave --agent-reward out",
        )
    if kind == "shapley" and spec.num_agents > MOST_AGENTS:
        raise ConfigError(
            f"--agent-reward shapley needs 2^{spec.num_agents} copies of every state for {spec.num_agents} agents; at most {MOST_AGENTS} "
            "agents are allowed",
            remedy="--agent-reward difference takes one copy per agent",
        )
    pay = AgentReward(noop_actions(spec), *_shares(kind, spec.num_agents))
    _refuse_if_nothing_is_paid(env, pay)
    return pay


def _refuse_if_nothing_is_paid(env: TeamEnv, pay: AgentReward) -> None:
    """ConfigError for a task like spread, whose forces move agents a step later: rewards come, but no action decides about its own."""
    copies, steps = (_LOOK_COPIES, _LOOK_STEPS) if isinstance(env, NativeEnv) else (2, 8 * _LOOK_STEPS)  # few live environments, for longer
    state, view = env.reset(copy_seeds(0, copies))
    clock, seen = Clock.start(copy_seeds(0, copies)), []
    for _ in range(steps):
        action = uniform_policy(view.available, clock.key(EXPLORE))
        others = pay.others(env, state, view, action, clock)
        after, step, next_view = env.step(state, action)
        if float(pay.split(others, step.reward).abs().max()) > _ROUNDING:
            return
        seen.append(step.reward)
        state, view, clock = after, next_view, clock.tick(step.terminated | step.truncated)
    rewards = torch.cat(seen)
    if bool((rewards != rewards[0]).any()):  # a constant cost of a step, the goal never reached, says nothing
        raise ConfigError(
            f"--agent-reward: in {copies * steps} env steps of random play of {env.spec.name} no agent's action changed the team "
            "reward of its own step, so agents would be paid nothing: only immediate effects are paid",
            remedy="leave --agent-reward out",
        )


def _shares(kind: str, num_agents: int) -> tuple[Bool[Tensor, "coalition agent"], Float[Tensor, "agent coalition_and_all"]]:
    if kind == "difference":
        ones = torch.ones(num_agents, 1, dtype=torch.float64)
        return without_each(num_agents)[:-1], torch.cat([-torch.eye(num_agents, dtype=torch.float64), ones], 1)
    return all_coalitions(num_agents)[:-1], shapley_from_values(torch.eye(2**num_agents, dtype=torch.float64))


def newest_rewards(config: Config, replay: Replay) -> Float[Tensor, "*reward"]:
    """The rewards of the newest batch as they enter the targets: the team's, or those of each agent that was alive and learns."""
    if not config.pays_agents:
        return replay.newest_rewards()
    batch = replay.newest()
    return batch.agent_reward[batch.alive]
