"""The two halves of a round as pure functions of tensors, for a compiler to capture and for seeds to be stacked.

`collect_step` is one env step in every copy, packed as the replay keeps it; `Iteration` is one gradient step: losses,
gradients, clipping, optimiser, slow targets. The plain trainer does the same one call at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..envs.base import TeamEnv
from .config import Config
from .data import Minibatch, Rollout
from .exploration import Explore
from .functional import Moments, Named, clip, descend
from .learners.base import Context, Learner, Loss
from .policies import Team
from .replay import Layout
from .rollout import Carry, Utility, advance
from .trees import write_into


@dataclass(frozen=True)
class Totals:
    """Sums over episodes that ended; one sum for all copies, or one per seed where copies of several seeds stand in a row."""

    episodes: Float[Tensor, "*seed"]
    returns: Float[Tensor, "*seed"]
    lengths: Float[Tensor, "*seed"]

    @classmethod
    def zero(cls, *seeds: int) -> "Totals":
        return cls(*(torch.zeros(seeds or 1, dtype=torch.float64) for _ in range(3)))


def collect_step(
    env: TeamEnv,
    team: Team,
    layout: Layout,
    explore: Explore,
    carry: Carry,
    totals: Totals,
    epsilon: Tensor,
    version: Tensor,
    utility: Utility | None = None,
) -> tuple[Carry, Totals, Tensor, Tensor]:
    """One env step in every copy: carry, totals, and the joint transitions as packed rows (env, row) of floats and of bytes."""
    carry, fields, ending = advance(env, carry, team, epsilon=epsilon, explore=explore, utility=utility)
    one = fields["reward"]
    step: dict[str, Any] = {name: value.unsqueeze(0) for name, value in fields.items()}
    shape = (1, len(one))
    floats, raw = layout.pack(
        Rollout(
            **step,
            valid=torch.ones(shape, dtype=torch.bool, device=one.device),
            policy_version=version.expand(shape),
            actor=torch.zeros(shape, dtype=torch.int64, device=one.device),
        )
    )
    by_seed = (*totals.episodes.shape, -1)
    totals = Totals(
        episodes=totals.episodes + ending.done.view(by_seed).sum(-1),
        returns=totals.returns + ending.episode_return.masked_fill(~ending.done, 0.0).view(by_seed).sum(-1),
        lengths=totals.lengths + ending.length.masked_fill(~ending.done, 0).view(by_seed).sum(-1),
    )
    return carry, totals, floats[0], raw[0]


@dataclass(frozen=True)
class Weights:
    """All that an iteration changes, by parameter name."""

    networks: Named
    targets: Named
    """Empty where there are no target networks."""
    moments: Moments


class Iteration(nn.Module):
    """A learner's losses as a function of named parameters, and the step that follows from their gradient."""

    def __init__(self, config: Config, learner: Learner, networks: nn.ModuleDict, targets: nn.ModuleDict, layout: Layout):
        super().__init__()
        self.config, self.learner, self.layout = config, learner, layout
        self.networks = networks
        self.has_targets = targets is not networks
        if self.has_targets:
            self.targets = targets
        names = [name for name, _ in self.named_parameters()]
        self.moved = [name for name in names if name.startswith("networks.")]
        self.slow = [name for name in names if name.startswith("targets.")]
        starts = {part: tuple(f"networks.{network}." for network in own) for part, own in learner.parts.items()}
        self.of_part = {part: [name for name in self.moved if name.startswith(start)] for part, start in starts.items()}

    def forward(self, floats: Tensor, raw: Tensor, planned: Mapping[str, Tensor] | None, scale: Tensor) -> Any:
        """Losses of a minibatch of packed rows; with `planned` None, the targets of a whole batch."""
        steps = self.layout.unpack(floats, raw)
        targets = self.targets if self.has_targets else self.networks
        assert isinstance(targets, nn.ModuleDict)
        context = Context(scale=scale)
        if planned is None:
            return self.learner.plan(self.networks, targets, steps, context)
        minibatch = Minibatch(steps, burn_in=self.config.replay.burn_in, padded=self.config.replay.burn_in > 0)
        return self.learner.losses(self.networks, targets, minibatch, planned=planned, context=context)

    def plan(self, networks: Named, targets: Named, floats: Tensor, raw: Tensor, scale: Tensor) -> dict[str, Tensor]:
        """Part -> targets of a whole fresh batch."""
        return torch.func.functional_call(self, {**networks, **targets}, (floats, raw, None, scale))

    def loss(
        self, networks: Named, targets: Named, floats: Tensor, raw: Tensor, planned: Mapping[str, Tensor], scale: Tensor
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " number"]]:
        """The mean losses of all parts together, on packed rows (time, window, row); and each part's loss, weight and metrics as sums."""
        losses = torch.func.functional_call(self, {**networks, **targets}, (floats, raw, planned, scale))
        total = torch.stack([loss.total / loss.weight.clamp(min=1) for loss in losses.values()]).sum()
        return total, torch.stack([value.to(torch.float64) for value in _sums(losses, scale)])

    def step(
        self, weights: Weights, sums: Tensor, floats: Tensor, raw: Tensor, planned: Mapping[str, Tensor], numbers: Tensor
    ) -> tuple[()]:
        """One iteration on packed rows, written into `weights`; what `loss` sums up and the gradients' norms are added to `sums`.

        `numbers` (float64): the reward scale, then each part's three `functional.factors`.
        """
        with torch.enable_grad():
            total, seen = self.loss(weights.networks, weights.targets, floats, raw, planned, numbers[0].to(torch.float32))
            gradients = torch.autograd.grad(total, list(weights.networks.values()))
        with torch.no_grad():
            held = Weights({name: value.detach() for name, value in weights.networks.items()}, weights.targets, weights.moments)
            new, norms = self.descend(held, dict(zip(held.networks, gradients, strict=True)), numbers[1:])
            write_into(weights, new)
            sums.add_(torch.cat((seen, norms)))
        return ()

    def descend(self, weights: Weights, gradients: Named, numbers: Tensor) -> tuple[Weights, Float[Tensor, " part"]]:
        """The step of every part's optimiser, with its three `functional.factors` in `numbers`; and the norms before clipping."""
        networks, first, second = dict(weights.networks), dict(weights.moments.first), dict(weights.moments.second)
        norms = []
        for names, factors in zip(self.of_part.values(), numbers.split(3), strict=True):
            clipped, norm = clip({name: gradients[name] for name in names}, self.config.learner.grad_clip)
            own = Moments({name: first[name] for name in names}, {name: second[name] for name in names})
            moved, own = descend(self.config.learner, {name: networks[name] for name in names}, clipped, own, factors)
            networks |= moved
            first |= own.first
            second |= own.second
            norms.append(norm.to(torch.float64))
        targets = weights.targets
        if self.config.learner.target == "soft":
            tau = self.config.learner.target_tau
            targets = {name: torch.lerp(slow, networks["networks." + name.removeprefix("targets.")], tau) for name, slow in targets.items()}
        return Weights(networks, targets, Moments(first, second)), torch.stack(norms)


def _sums(losses: Mapping[str, Loss], scale: Tensor) -> list[Tensor]:
    """Each part's loss in raw reward, weight and metrics."""
    values = []
    for loss in losses.values():
        values += [loss.total.detach() * scale**loss.reward_power, loss.weight.detach()]
        values += [value.detach() for value in loss.metrics.values()]
    return values
