"""Choosing actions: greedy, epsilon-greedy and uniform, over available actions only, from counter-based numbers.

Each agent draws two numbers per step in its own stream, whether or not they are used, so overriding one agent's action
never moves another agent's draw.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..envs.randomness import split, uniform
from .config import ExplorationConfig


def epsilon_at(config: ExplorationConfig, env_steps: int, total_steps: int) -> float:
    """epsilon as a pure function of the env steps done: linear from start to end over `fraction` of the run."""
    span = config.fraction * total_steps
    progress = 1.0 if span <= 0 else min(env_steps / span, 1.0)
    return config.end + (config.start - config.end) * (1 - progress)


def greedy(q: Float[Tensor, "*batch action"], available: Bool[Tensor, "*batch action"]) -> Int[Tensor, "*batch"]:
    """The best available action; the first of equals."""
    return q.masked_fill(~available, -torch.inf).argmax(-1)


def uniform_action(number: Float[Tensor, "*batch"], available: Bool[Tensor, "*batch action"]) -> Int[Tensor, "*batch"]:
    """The available action that a number in [0, 1) picks, each equally likely."""
    rank = available.cumsum(-1)
    wanted = (number * rank[..., -1]).to(torch.int64) + 1
    return (rank < wanted.unsqueeze(-1)).sum(-1)


def epsilon_greedy(
    q: Float[Tensor, "env agent action"], available: Bool[Tensor, "env agent action"], epsilon: float, key: Int[Tensor, " env"]
) -> tuple[Int[Tensor, "env agent"], Float[Tensor, "env agent"]]:
    """Actions and the probability with which each was taken: epsilon/|available|, plus 1 - epsilon for the greedy one."""
    numbers = uniform(split(key, 2 * q.shape[1])).unflatten(-1, (q.shape[1], 2))
    best = greedy(q, available)
    action = torch.where(numbers[..., 0] < epsilon, uniform_action(numbers[..., 1], available), best)
    behaviour = epsilon / available.sum(-1) + (1 - epsilon) * (action == best)
    return action, behaviour


def uniform_policy(available: Bool[Tensor, "env agent action"], key: Int[Tensor, " env"]) -> Int[Tensor, "env agent"]:
    """Every agent uniform over its available actions (the `random` reference), from the same two numbers per agent."""
    numbers = uniform(split(key, 2 * available.shape[1])).unflatten(-1, (available.shape[1], 2))
    return uniform_action(numbers[..., 1], available)
