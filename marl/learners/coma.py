"""Counterfactual multi-agent policy gradients (COMA, arXiv:1705.08926), from fresh batches or from the replay.

    pi_i = (1 - epsilon) softmax(f(o_i)) + epsilon uniform
    A_i = Q(s, u) - sum_a pi_i(a) Q(s, (u_-i, a))

coma.actions stored:     gradient  rho sum_i A_i grad log pi_i(u_i),  rho = prod_j pi_j(u_j) / mu_j(u_j)  over the *joint* action
coma.actions resampled:  gradient  sum_i sum_a Q(s, (u'_-i, a)) grad pi_i(a),  u' drawn afresh from the current policies

`stored` on a fresh batch (sampling split) is COMA itself: rho is 1 for the first minibatch and corrects the later ones (a
gru's memory starts anew in its window, burn-in aside, so what it did there is replayed a little off policy from the start).
From the replay (sampling uniform) it is exact for the states stored, but its variance grows with the distance of pi
from mu and the number of agents: the effective sample size (sum rho)^2 / (N sum rho^2) is logged, and below
coma.ess_floor training is refused. `resampled` needs no ratio at all; what remains is that the states are those of the
policies that collected them. Both draw the critic's next actions afresh (learners/critic.py).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...credit.counterfactual import counterfactual_advantage
from ...envs.base import TeamSpec
from ..agents import utility_network
from ..config import Config
from ..data import Minibatch, Rollout
from ..errors import TooFarOffPolicy
from ..exploration import draw, softmax_epsilon, softmax_probabilities
from .base import AGENTS, CRITIC, Context, Loss
from .critic import CriticLearner, acting, critic_of, joint_ratio, own
from .windows import after_burn_in, utility_of, without_padding

SMALLEST = 1e-8
"""Probabilities are kept above this inside logarithms."""


class ComaLearner:
    """Decentralized policies, a counterfactual critic."""

    parts = {AGENTS: ("utility",), CRITIC: ("critic",)}  # noqa: RUF012
    explore = staticmethod(softmax_epsilon)

    def __init__(self, config: Config, spec: TeamSpec, mixer: str):
        self.config, self.spec = config, spec
        self.critic = CriticLearner(config, spec, softmax_probabilities)

    def make_networks(self, seed: int) -> nn.ModuleDict:
        config, spec = self.config, self.spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            policy = utility_network(config.network, spec)
        return nn.ModuleDict({"utility": policy, "critic": self.critic.make_critic(seed)})

    def plan(self, networks: nn.ModuleDict, targets: nn.ModuleDict, batch: Rollout, context: Context) -> dict[str, Tensor]:
        target = self.critic.plan(networks, targets, batch, context)
        return {} if target is None else {CRITIC: target}

    def losses(
        self, networks: nn.ModuleDict, targets: nn.ModuleDict, minibatch: Minibatch, *, planned: Mapping[str, Tensor], context: Context
    ) -> dict[str, Loss]:
        minibatch = without_padding(minibatch)
        steps, critic = after_burn_in(minibatch), critic_of(networks)
        features = self.critic.evaluate(networks, minibatch)
        rows = critic.rows(features, steps.action, steps.alive)
        of_critic = self.critic.loss(networks, targets, minibatch, target=planned.get(CRITIC), context=context, rows=rows)
        window = minibatch.steps
        logits, _ = utility_of(networks).unroll(window.obs, window.episode_start, burn_in=minibatch.burn_in)
        policy = softmax_probabilities(logits, steps.available, context.epsilon)
        if self.config.coma.actions == "stored":
            gain, advantage, ratio = stored_gain(policy, rows.detach(), steps)
        else:
            action = draw(policy.detach(), torch.rand(policy.shape[:-1], generator=context.generator))
            with torch.no_grad():
                rows = critic.rows(features, action, steps.alive)
            gain = resampled_gain(policy, rows, action)
            advantage, ratio = gain.detach(), None  # of the drawn actions, with the other sign
        return {CRITIC: of_critic, AGENTS: self._actor_loss(gain, advantage, policy, ratio, steps, context)}

    def _actor_loss(self, gain: Tensor, advantage: Tensor, policy: Tensor, ratio: Tensor | None, steps: Rollout, context: Context) -> Loss:
        real = acting(steps)
        entropy = -(policy * policy.clamp(min=SMALLEST).log()).sum(-1)
        gain = torch.where(real, gain, 0.0)
        entropy = torch.where(real, entropy, 0.0)
        size = torch.where(real, advantage.abs(), 0.0)
        metrics = {"entropy": entropy.detach().sum(), "advantage": size.sum() * context.scale}
        if ratio is not None:
            per_agent = torch.where(real, ratio.unsqueeze(-1), 0.0)
            metrics |= {"ratio": per_agent.sum(), "ratio_square": per_agent.square().sum()}
        return Loss(
            total=-(gain + self.config.coma.entropy * entropy).sum(),
            weight=real.sum().to(gain.dtype),
            td_error=torch.zeros_like(gain),
            metrics=metrics,
            reward_power=1,
        )

    def report(self, line: dict[str, Any]) -> dict[str, Any]:
        """Adds the effective sample size as a share of the samples; TooFarOffPolicy where it, or the mean ratio, is below coma.ess_floor.

        The mean of rho under mu is 1. Where all ratios are equally small the policies have left what is stored, though by itself the
        effective sample size, which knows no scale, looks well.
        """
        square = line.pop("ratio_square", None)
        if square is None:
            return line
        share = line["ratio"] ** 2 / square if square else 0.0
        if min(share, line["ratio"]) < self.config.coma.ess_floor:
            raise TooFarOffPolicy(share, line["ratio"], self.config.coma.ess_floor, line["env_steps"])
        return line | {"effective_sample_size": share}


def stored_gain(policy: Tensor, rows: Tensor, steps: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """rho A_i log pi_i(u_i), whose gradient is COMA's, and A_i, per agent; and rho, (time, env)."""
    advantage = counterfactual_advantage(rows, policy.detach(), steps.action)
    chosen = own(policy, steps.action)
    ratio = joint_ratio(chosen.detach(), steps)
    return ratio.unsqueeze(-1) * advantage * chosen.clamp(min=SMALLEST).log(), advantage, ratio


def resampled_gain(policy: Tensor, rows: Tensor, action: Tensor) -> Tensor:
    """sum_a pi_i(a) Q(s, (u'_-i, a)) per agent, less the value of the drawn action, which moves no gradient but keeps numbers small."""
    return (policy * rows).sum(-1) - own(rows, action)
