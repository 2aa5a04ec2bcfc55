"""Value decomposition: iql, vdn and qmix are one learner with another mixer.

    y_t = return from r_t.. bootstrapped with V_{t+1} = mix(max_a q'_i(o'_i, a); s')      (double: argmax of the live network)
    L = sum over real t of (mix(q_i(o_i, u_i); s) - y_t)^2

Dead agents and planted members have no utility: their q is 0 before mixing, and with independent learners their own
error is left out. `terminated` alone stops the bootstrap; a truncated episode bootstraps from its last view.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...envs.base import TeamSpec
from ...mixers import make_mixer
from ...mixers.base import Mixer, mix
from ..agents import UtilityNetwork, utility_network
from ..config import Config
from ..data import Minibatch, Rollout
from ..exploration import epsilon_greedy, greedy_probabilities
from ..returns import lambda_returns, n_step_returns
from .base import AGENTS, CRITIC, Context, Loss
from .critic import CriticLearner
from .windows import after_burn_in, follow, most_truncations, next_utilities, utility_of, without_padding

Unrolled = tuple[Tensor, Tensor]
"""A network's utilities and memories over a window (see UtilityNetwork.unroll)."""


class ValueLearner:
    """TD learning of a mixed team value."""

    explore = staticmethod(epsilon_greedy)

    def __init__(self, config: Config, spec: TeamSpec, mixer: str):
        self.config, self.spec, self.mixer = config, spec, mixer
        self.parts: dict[str, tuple[str, ...]] = {AGENTS: ("utility", "mixer")}
        self.critic = None
        if config.own_critic.kind != "none":
            self.critic = CriticLearner(config, spec, greedy_probabilities)
            self.parts[CRITIC] = ("critic",)

    def make_networks(self, seed: int) -> nn.ModuleDict:
        config, spec = self.config, self.spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            utility = utility_network(config.network, spec)
            mixer = make_mixer(
                self.mixer,
                num_agents=spec.num_agents,
                state_dim=spec.state_dim,
                embed_dim=config.mixer.embed_dim,
                hyper_dim=config.mixer.hyper_dim,
            )
        networks = nn.ModuleDict({"utility": utility, "mixer": mixer})
        if self.critic is not None:
            networks["critic"] = self.critic.make_critic(seed)
        return networks

    def plan(self, networks: nn.ModuleDict, targets: nn.ModuleDict, batch: Rollout, context: Context) -> dict[str, Tensor]:
        planned = {AGENTS: self.prepare(networks, targets, batch, context.scale)}
        if self.critic is not None:
            planned[CRITIC] = self.critic.plan(networks, targets, batch, replace(context, epsilon=0.0))
        return {part: target for part, target in planned.items() if target is not None}

    def losses(
        self, networks: nn.ModuleDict, targets: nn.ModuleDict, minibatch: Minibatch, *, planned: Mapping[str, Tensor], context: Context
    ) -> dict[str, Loss]:
        """The agents' loss; and the critic's, which evaluates the greedy policy and moves nothing but itself."""
        losses = {AGENTS: self.loss(networks, targets, minibatch, target=planned.get(AGENTS), scale=context.scale)}
        if self.critic is not None:
            context = replace(context, epsilon=0.0)
            losses[CRITIC] = self.critic.loss(networks, targets, minibatch, target=planned.get(CRITIC), context=context)
        return losses

    def report(self, line: dict[str, Any]) -> dict[str, Any]:
        return line

    def prepare(self, networks: nn.ModuleDict, targets: nn.ModuleDict, batch: Rollout, scale: float | Tensor) -> Tensor | None:
        """Memoryless agents on a split batch get returns over the whole batch; recurrent ones inside their windows."""
        if self.config.replay.sampling != "split" or utility_of(networks).memory_dim:
            return None
        return self.returns(networks, targets, Minibatch(batch), scale=scale)

    @torch.no_grad()
    def returns(
        self,
        networks: nn.ModuleDict,
        targets: nn.ModuleDict,
        minibatch: Minibatch,
        *,
        scale: float | Tensor,
        unrolled: Unrolled | None = None,
    ) -> Float[Tensor, "time env value"]:
        """The targets y, in units of reward / scale; `unrolled` is what the live network's unroll over the window gave, if at hand."""
        steps = after_burn_in(minibatch)
        live, target = utility_of(networks), utility_of(targets)
        next_q = self._next_q(target, minibatch, unrolled if target is live else None)
        chooser = next_q
        if self.config.learner.double and target is not live:
            chooser = self._next_q(live, minibatch, unrolled)
        best = chooser.masked_fill(~steps.next_available, -torch.inf).argmax(-1, keepdim=True)
        q = next_q.gather(-1, best).squeeze(-1)
        next_value = mix(_mixer(targets), q, steps.next_state, steps.next_alive)
        done, real = steps.terminated | steps.truncated, _real(steps, _mixer(targets))
        own = self.config.pays_agents
        reward = ((steps.agent_reward if own else steps.reward.unsqueeze(-1)) / scale).expand_as(next_value)
        flags = [*(of_step.unsqueeze(-1).expand_as(next_value) for of_step in (steps.terminated, done)), real]
        learner = self.config.learner
        if learner.n_step > 1:
            return n_step_returns(reward, next_value, *flags, gamma=learner.gamma, n_step=learner.n_step)
        return lambda_returns(reward, next_value, *flags, gamma=learner.gamma, td_lambda=learner.td_lambda)

    def _next_q(self, utility: UtilityNetwork, minibatch: Minibatch, unrolled: Unrolled | None) -> Float[Tensor, "time env agent action"]:
        """Utilities of the view each step reached; inside a window most of them are the next step's own."""
        if unrolled is None and utility.memory_dim:
            unrolled = utility.unroll(minibatch.steps.obs, minibatch.steps.episode_start, burn_in=minibatch.burn_in)
        steps = after_burn_in(minibatch)
        last_views = most_truncations(self.spec, steps.num_steps - 1)
        if unrolled is not None and last_views is not None and last_views + 1 < steps.num_steps:
            return follow(utility, steps, *unrolled, last_views)
        return next_utilities(utility, minibatch, None if unrolled is None else unrolled[1])

    def loss(
        self,
        networks: nn.ModuleDict,
        targets: nn.ModuleDict,
        minibatch: Minibatch,
        *,
        target: Tensor | None = None,
        scale: float | Tensor = 1.0,
    ) -> Loss:
        minibatch = without_padding(minibatch)
        steps = after_burn_in(minibatch)
        q_all, memories = utility_of(networks).unroll(minibatch.steps.obs, minibatch.steps.episode_start, burn_in=minibatch.burn_in)
        q = q_all.gather(-1, steps.action.unsqueeze(-1)).squeeze(-1)
        mixer = _mixer(networks)
        value = mix(mixer, q, steps.state, steps.alive)
        if target is None:
            target = self.returns(networks, targets, minibatch, scale=scale, unrolled=(q_all.detach(), memories.detach()))
        real = _real(steps, mixer)
        td_error = torch.where(real, target - value, 0.0)
        return Loss(
            total=td_error.square().sum(),
            weight=real.sum().to(value.dtype),
            td_error=td_error.detach(),
            metrics={
                "td_error": td_error.detach().abs().sum() * scale,
                "value": torch.where(real, value.detach(), 0.0).sum() * scale,
                "target": torch.where(real, target, 0.0).sum() * scale,
                **self._paid(steps, real),
            },
        )

    def _paid(self, steps: Rollout, real: Bool[Tensor, "time env value"]) -> dict[str, Tensor]:
        """What agents are paid of their own, raw, and how much that is either way: it may be many times less than the team's reward."""
        if not self.config.pays_agents:
            return {}
        paid = steps.agent_reward.masked_fill(~real, 0.0)
        return {"agent_reward": paid.sum(), "agent_reward_size": paid.abs().sum()}


def _mixer(networks: nn.ModuleDict) -> Mixer:
    mixer = networks["mixer"]
    assert isinstance(mixer, Mixer)
    return mixer


def _real(steps: Rollout, mixer: Mixer) -> Bool[Tensor, "time env value"]:
    """The entries that are learned from: real steps, and of independent learners those that acted."""
    return steps.valid.unsqueeze(-1) & steps.alive if mixer.per_agent else steps.valid.unsqueeze(-1)
