"""Value decomposition: iql, vdn and qmix are one learner with another mixer.

    y_t = return from r_t.. bootstrapped with V_{t+1} = mix(max_a q'_i(o'_i, a); s')      (double: argmax of the live network)
    L = sum over real t of (mix(q_i(o_i, u_i); s) - y_t)^2

Dead agents and planted members have no utility: their q is 0 before mixing, and with independent learners their own
error is left out. `terminated` alone stops the bootstrap; a truncated episode bootstraps from its last view.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...envs.base import TeamSpec
from ...mixers import make_mixer
from ...mixers.base import Mixer, mix
from ..agents import UtilityNetwork
from ..config import Config
from ..data import Minibatch, Rollout
from ..returns import lambda_returns, n_step_returns
from .base import Loss


class ValueLearner:
    """TD learning of a mixed team value."""

    def __init__(self, config: Config, spec: TeamSpec, mixer: str):
        self.config, self.spec, self.mixer = config, spec, mixer

    def make_networks(self, seed: int) -> nn.ModuleDict:
        config, spec = self.config, self.spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            utility = UtilityNetwork(config.network, num_agents=spec.num_agents, obs_dim=spec.obs_dim, num_actions=spec.num_actions)
            mixer = make_mixer(
                self.mixer,
                num_agents=spec.num_agents,
                state_dim=spec.state_dim,
                embed_dim=config.mixer.embed_dim,
                hyper_dim=config.mixer.hyper_dim,
            )
        return nn.ModuleDict({"utility": utility, "mixer": mixer})

    def prepare(self, networks: nn.ModuleDict, targets: nn.ModuleDict, batch: Rollout, scale: float) -> Tensor | None:
        """Memoryless agents on a split batch get returns over the whole batch; recurrent ones inside their windows."""
        if self.config.replay.sampling != "split" or _utility(networks).memory_dim:
            return None
        return self.returns(networks, targets, Minibatch(batch), scale=scale)

    @torch.no_grad()
    def returns(
        self, networks: nn.ModuleDict, targets: nn.ModuleDict, minibatch: Minibatch, *, scale: float, memories: Tensor | None = None
    ) -> Float[Tensor, "time env value"]:
        """The targets y, in units of reward / scale; `memories` as the live network's unroll left them, if at hand."""
        steps = _after_burn_in(minibatch)
        live, target = _utility(networks), _utility(targets)
        if live.memory_dim and memories is None:
            _, memories = live.unroll(minibatch.steps.obs, minibatch.steps.episode_start, burn_in=minibatch.burn_in)
        next_q = _next_utilities(target, minibatch, memories if target is live else None)
        chooser = next_q
        if self.config.learner.double and target is not live:
            chooser = _next_utilities(live, minibatch, memories)
        best = chooser.masked_fill(~steps.next_available, -torch.inf).argmax(-1, keepdim=True)
        q = next_q.gather(-1, best).squeeze(-1)
        next_value = mix(_mixer(targets), q, steps.next_state, steps.next_alive)
        done, real = steps.terminated | steps.truncated, _real(steps, _mixer(targets))
        reward, *flags = (of_step.unsqueeze(-1).expand_as(next_value) for of_step in (steps.reward / scale, steps.terminated, done))
        flags.append(real)
        learner = self.config.learner
        if learner.n_step > 1:
            return n_step_returns(reward, next_value, *flags, gamma=learner.gamma, n_step=learner.n_step)
        return lambda_returns(reward, next_value, *flags, gamma=learner.gamma, td_lambda=learner.td_lambda)

    def loss(
        self, networks: nn.ModuleDict, targets: nn.ModuleDict, minibatch: Minibatch, *, target: Tensor | None = None, scale: float = 1.0
    ) -> Loss:
        minibatch = _without_padding(minibatch)
        steps = _after_burn_in(minibatch)
        q_all, memories = _utility(networks).unroll(minibatch.steps.obs, minibatch.steps.episode_start, burn_in=minibatch.burn_in)
        q = q_all.gather(-1, steps.action.unsqueeze(-1)).squeeze(-1)
        mixer = _mixer(networks)
        value = mix(mixer, q, steps.state, steps.alive)
        if target is None:
            target = self.returns(networks, targets, minibatch, scale=scale, memories=memories.detach())
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
            },
        )


def _utility(networks: nn.ModuleDict) -> UtilityNetwork:
    utility = networks["utility"]
    assert isinstance(utility, UtilityNetwork)
    return utility


def _mixer(networks: nn.ModuleDict) -> Mixer:
    mixer = networks["mixer"]
    assert isinstance(mixer, Mixer)
    return mixer


def _real(steps: Rollout, mixer: Mixer) -> Bool[Tensor, "time env value"]:
    """The entries that are learned from: real steps, and of independent learners those that acted."""
    return steps.valid.unsqueeze(-1) & steps.alive if mixer.per_agent else steps.valid.unsqueeze(-1)


def _without_padding(minibatch: Minibatch) -> Minibatch:
    """Zeros where a step is not real: a masked loss alone does not stop NaN, since 0 * NaN is NaN in the gradient."""
    steps = minibatch.steps
    if steps.valid.all():
        return minibatch
    seen = ("obs", "state", "next_obs", "next_state")
    padding = {name: ~steps.valid.view(*steps.valid.shape, *[1] * (getattr(steps, name).dim() - 2)) for name in seen}
    cleaned = {name: getattr(steps, name).masked_fill(padding[name], 0) for name in seen}
    return replace(minibatch, steps=replace(steps, **cleaned))


def _after_burn_in(minibatch: Minibatch) -> Rollout:
    if not minibatch.burn_in:
        return minibatch.steps
    steps = minibatch.steps
    values = {name: getattr(steps, name)[minibatch.burn_in :] for name in steps.__dataclass_fields__ if name != "extras"}
    return Rollout(**values, extras={name: value[minibatch.burn_in :] for name, value in steps.extras.items()})


def _next_utilities(utility: UtilityNetwork, minibatch: Minibatch, memories: Tensor | None) -> Float[Tensor, "time env agent action"]:
    """Utilities of the view each step reached, the memory being the one left by that step (never another episode's)."""
    steps = minibatch.steps
    if utility.memory_dim and memories is None:
        _, memories = utility.unroll(steps.obs, steps.episode_start, burn_in=minibatch.burn_in)
    next_obs = steps.next_obs[minibatch.burn_in :]
    q, _ = utility(next_obs, next_obs[..., :0] if memories is None else memories)
    return q
