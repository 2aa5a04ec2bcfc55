"""Learning the counterfactual critic from any replayed joint transition, for a policy pi that need not have collected it.

    y_t = r_t + gamma (1 - terminated_t) [V_{t+1} + c_{t+1} (G_{t+1} - Q_{t+1}(u_{t+1}))]        (returns.trace_returns)
    V_{t+1} = mean over living agents i of  sum_a pi_i(a) Q'_i(s', (u'_-i, a)),      u'_-i drawn afresh from pi
    L = sum over real t and living i of (Q_i(s, u) - y_t)^2

The next actions are fresh draws from the current policies, with the exact sum over each agent's own action, never the
stored ones: those would teach the value of the policy that collected. The n rows of the critic estimate one number, so
their mean is the target of all. c_t is 0 (one-step), lambda min(1, prod_i pi_i/mu_i) (Retrace, clipped jointly) or
lambda prod_i pi_i (tree-backup), products over the agents that act; mu comes from the replay.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...envs.base import TeamSpec
from ...envs.randomness import mix_seed
from ..agents import UtilityNetwork
from ..config import Config
from ..critic import CounterfactualCritic
from ..data import Minibatch, Rollout
from ..exploration import draw
from ..returns import trace_returns
from .base import Context, Loss
from .windows import after_burn_in, next_utilities, utility_of, without_padding

Probabilities = Callable[[Tensor, Tensor, float], Tensor]
"""(utilities or logits, available, epsilon) -> pi, along any batch axes: `greedy_probabilities` or `softmax_probabilities`."""


class CriticLearner:
    """TD learning of Q(s, u) under the policy that `probabilities` makes of the agents' outputs."""

    def __init__(self, config: Config, spec: TeamSpec, probabilities: Probabilities):
        self.config, self.spec, self.probabilities = config, spec, probabilities

    def make_critic(self, seed: int) -> CounterfactualCritic:
        """A fresh critic from a seed of its own, so that the agents' weights are the same with and without it."""
        spec = self.spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix_seed(seed, 1))
            return CounterfactualCritic(
                self.config.own_critic,
                num_agents=spec.num_agents,
                obs_dim=spec.obs_dim,
                state_dim=spec.state_dim,
                num_actions=spec.num_actions,
            )

    def plan(self, networks: nn.ModuleDict, targets: nn.ModuleDict, batch: Rollout, context: Context) -> Tensor | None:
        """The targets of a whole fresh batch where neither agents nor critic have a memory; else None."""
        if self.config.replay.sampling != "split" or utility_of(networks).memory_dim or critic_of(networks).memory_dim:
            return None
        return self.returns(networks, targets, Minibatch(batch), context).unsqueeze(-1)

    @torch.no_grad()
    def returns(self, networks: nn.ModuleDict, targets: nn.ModuleDict, minibatch: Minibatch, context: Context) -> Float[Tensor, "time env"]:
        """The targets y, in units of reward / scale."""
        steps, utility, critic = after_burn_in(minibatch), utility_of(networks), critic_of(targets)
        window = minibatch.steps
        out, memories = utility.unroll(window.obs, window.episode_start, burn_in=minibatch.burn_in)
        features = critic.unroll(window.state, window.obs, window.episode_start, burn_in=minibatch.burn_in)
        next_value = self._next_value(utility, critic, minibatch, memories, features, context)
        done, reward = steps.terminated | steps.truncated, steps.reward / context.scale
        if self.config.own_critic.target == "one-step":
            taken = trace = torch.zeros_like(reward)
        else:
            taken = mean_over(own(critic.rows(features, steps.action, steps.alive), steps.action), steps.alive)
            pi = own(self.probabilities(out, steps.available, context.epsilon), steps.action)
            if self.config.own_critic.target == "retrace":
                trace = joint_ratio(pi, steps).clamp(max=1.0)
            else:
                trace = torch.where(steps.alive, pi, 1.0).prod(-1)
            trace = self.config.own_critic.trace_lambda * trace
        return trace_returns(
            reward, next_value, taken, trace, steps.terminated, done, steps.valid, gamma=self.config.learner.gamma
        )  # fmt: skip

    def _next_value(
        self,
        utility: UtilityNetwork,
        critic: CounterfactualCritic,
        minibatch: Minibatch,
        memories: Tensor,
        features: Tensor,
        context: Context,
    ) -> Float[Tensor, "time env"]:
        """V_{t+1}: one fresh joint action per step, each agent's own action summed over exactly; 0 where no learning agent lives on."""
        steps = after_burn_in(minibatch)
        policy = self.probabilities(next_utilities(utility, minibatch, memories), steps.next_available, context.epsilon)
        action = draw(policy, torch.rand(policy.shape[:-1], generator=context.generator))
        memory = features if critic.memory_dim else features[..., :0]
        rows = critic.rows(critic.step(steps.next_state, steps.next_obs, memory), action, steps.next_alive)
        return mean_over((policy * rows).sum(-1), steps.next_alive)

    def evaluate(self, networks: nn.ModuleDict, minibatch: Minibatch) -> Float[Tensor, "time env agent hidden"]:
        """The live critic's features of a window, with a gradient."""
        window = minibatch.steps
        return critic_of(networks).unroll(window.state, window.obs, window.episode_start, burn_in=minibatch.burn_in)

    def loss(
        self,
        networks: nn.ModuleDict,
        targets: nn.ModuleDict,
        minibatch: Minibatch,
        *,
        target: Tensor | None,
        context: Context,
        rows: Tensor | None = None,
    ) -> Loss:
        """The critic's loss; `target` as planned, `rows` the live critic's at the stored actions if at hand."""
        minibatch = without_padding(minibatch)
        steps = after_burn_in(minibatch)
        if rows is None:
            rows = critic_of(networks).rows(self.evaluate(networks, minibatch), steps.action, steps.alive)
        if target is None:
            target = self.returns(networks, targets, minibatch, context).unsqueeze(-1)
        real, q = acting(steps), own(rows, steps.action)
        td_error = torch.where(real, target - q, 0.0)
        scale = context.scale
        return Loss(
            total=td_error.square().sum(),
            weight=real.sum().to(q.dtype),
            td_error=td_error.detach(),
            metrics={
                "td_error": td_error.detach().abs().sum() * scale,
                "value": torch.where(real, q.detach(), 0.0).sum() * scale,
                "target": torch.where(real, target, 0.0).sum() * scale,
            },
        )


def critic_of(networks: nn.ModuleDict) -> CounterfactualCritic:
    """The critic among the networks."""
    critic = networks["critic"]
    assert isinstance(critic, CounterfactualCritic)
    return critic


def acting(steps: Rollout) -> Bool[Tensor, "time env agent"]:
    """The entries that are learned from: agents that acted in a real step."""
    return steps.valid.unsqueeze(-1) & steps.alive


def own(rows: Float[Tensor, "*batch agent action"], action: Tensor) -> Float[Tensor, "*batch agent"]:
    """Each agent's entry at its own action."""
    return rows.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def joint_ratio(pi: Float[Tensor, "time env agent"], steps: Rollout) -> Float[Tensor, "time env"]:
    """prod_i pi_i(u_i) / mu_i(u_i) over the agents that act: what importance sampling of a *joint* action takes."""
    return torch.where(steps.alive, pi / steps.behaviour, 1.0).prod(-1)


def mean_over(values: Float[Tensor, "*batch agent"], chosen: Bool[Tensor, "*batch agent"]) -> Float[Tensor, "*batch"]:
    """The mean over the chosen agents; 0 where none is."""
    return torch.where(chosen, values, 0.0).sum(-1) / chosen.sum(-1).clamp(min=1)
