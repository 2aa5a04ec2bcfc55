"""Several seeds' iteration as one: one seed's functions of named parameters, mapped over a leading axis.

A seed's parameters lie end to end in one row of a matrix (seed, number). So the optimiser, the clipping and the slow targets
are a few operations on matrices whatever the number of seeds and layers, and a parameter of all seeds, (seed, ...), is a view.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, vmap

from .config import LearnerConfig
from .functional import Moments, Named, clip, descend
from .pure import Iteration


@dataclass(frozen=True)
class Stack:
    """All that an iteration of several seeds changes, a seed a row."""

    networks: Float[Tensor, "seed number"]
    targets: Float[Tensor, "seed slow"]
    """As wide as `networks`, or of width 0 where there are no target networks."""
    first: Float[Tensor, "seed number"]
    """Running means of the gradients,"""
    second: Float[Tensor, "seed number"]
    """and of their squares."""


class StackedIteration:
    """`Iteration` of several seeds at once; only what no seed differs in (shapes, settings) is taken from the one given.

    The agents must be the only part that learns.
    """

    def __init__(self, iteration: Iteration):
        self.iteration = iteration
        parameters = dict(iteration.named_parameters())
        self.shapes = {name: parameters[name].shape for name in iteration.moved}

    def named(self, rows: Float[Tensor, "seed number"], prefix: str = "networks.") -> Named:
        """Each parameter of all seeds, (seed, ...), as views of the rows; `prefix` may say targets. instead."""
        if not rows.shape[1]:
            return {}
        parts = rows.split([shape.numel() for shape in self.shapes.values()], 1)
        names = (prefix + name.removeprefix("networks.") for name in self.shapes)
        return {name: part.unflatten(1, shape) for name, part, shape in zip(names, parts, self.shapes.values(), strict=True)}

    def act(self, utility: Named, obs: Float[Tensor, "env agent obs"], memory: Tensor) -> tuple[Tensor, Tensor]:
        """Every seed's agents on their own copies, all seeds' copies in a row: outputs and memory. `utility`: as `of_utility` gives it."""
        seeds, network = len(next(iter(utility.values()))), self.iteration.networks["utility"]
        of_seed = vmap(lambda parameters, obs, memory: functional_call(network, parameters, (obs, memory)))
        q, memory = of_seed(utility, obs.unflatten(0, (seeds, -1)), memory.unflatten(0, (seeds, -1)))
        return q.flatten(0, 1), memory.flatten(0, 1)

    def of_utility(self, networks: Named) -> Named:
        """The agents' own parameters, as their network names them."""
        start = "networks.utility."
        return {name.removeprefix(start): value for name, value in networks.items() if name.startswith(start)}

    def plan(self, networks: Named, targets: Named, floats: Tensor, raw: Tensor, scale: Float[Tensor, " seed"]) -> dict[str, Tensor]:
        """Part -> targets (time, seed, env, value) of the whole fresh batches, packed rows (time, seed, env, row)."""
        return vmap(self.iteration.plan, in_dims=(0, 0, 1, 1, 0), out_dims=1)(networks, targets, floats, raw, scale)

    def step(
        self,
        stack: Stack,
        sums: Float[Tensor, "seed name"],
        floats: Float[Tensor, "time seed window row"],
        raw: Tensor,
        planned: Mapping[str, Tensor],
        scale: Float[Tensor, " seed"],
        factors: Float[Tensor, " 3"],
    ) -> tuple[()]:
        """One iteration of every seed, written into `stack`; what a loss sums up and the gradient's norm are added to `sums`.

        The sum over seeds of their mean losses has each seed's own gradient, since no seed's loss depends on another's parameters.
        """
        with torch.enable_grad():
            networks, targets = self.named(stack.networks), self.named(stack.targets, "targets.")
            totals, seen = vmap(self.iteration.loss, in_dims=(0, 0, 1, 1, 1, 0))(networks, targets, floats, raw, dict(planned), scale)
            (gradients,) = torch.autograd.grad(totals.sum(), [stack.networks])
        with torch.no_grad():
            norms = move(self.iteration.config.learner, stack, gradients, factors)
            sums.add_(torch.cat((seen, norms.unsqueeze(1)), 1))
        return ()


def move(
    config: LearnerConfig, stack: Stack, gradients: Float[Tensor, "seed number"], factors: Float[Tensor, " 3"]
) -> Float[Tensor, " seed"]:
    """Clip each seed's gradient by its own norm, take the optimiser's step in place, and follow with the slow targets; the norms."""
    every = "all"
    clipped, norms = vmap(lambda gradient: clip({every: gradient}, config.grad_clip))(gradients)
    moved, moments = descend(config, {every: stack.networks}, clipped, Moments({every: stack.first}, {every: stack.second}), factors)
    stack.networks.copy_(moved[every])
    stack.first.copy_(moments.first[every])
    stack.second.copy_(moments.second[every])
    if config.target == "soft":
        stack.targets.lerp_(moved[every], config.target_tau)
    return norms.to(torch.float64)
