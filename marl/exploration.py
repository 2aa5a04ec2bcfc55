"""Choosing actions: greedy, epsilon-greedy, softmax and uniform, over available actions only, from counter-based numbers.

Each agent draws two numbers per step in its own stream, whether or not they are used, so overriding one agent's action
never moves another agent's draw.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..envs.randomness import split, uniform
from .config import ExplorationConfig

Explore = Callable[[Tensor, Tensor, float | Tensor, Tensor], tuple[Tensor, Tensor]]
"""(utilities or logits, available, epsilon, key) -> actions and their probabilities: `epsilon_greedy` or `softmax_epsilon`."""


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
    rank = torch.stack(_running_counts(available), -1)
    wanted = (number * rank[..., -1]).to(torch.int64) + 1
    return (rank < wanted.unsqueeze(-1)).sum(-1)


def _running_counts(flags: Bool[Tensor, "*batch action"]) -> list[Int[Tensor, "*batch"]]:
    """`flags.cumsum(-1)`, column by column: sums that a compiler puts into what is around them."""
    count, counts = torch.zeros_like(flags[..., 0], dtype=torch.int64), []
    for flag in flags.unbind(-1):
        count = count + flag
        counts.append(count)
    return counts


def epsilon_greedy(
    q: Float[Tensor, "env agent action"], available: Bool[Tensor, "env agent action"], epsilon: float | Tensor, key: Int[Tensor, " env"]
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


def greedy_probabilities(
    q: Float[Tensor, "*batch action"], available: Bool[Tensor, "*batch action"], epsilon: float | Tensor
) -> Float[Tensor, "*batch action"]:
    """The epsilon-greedy policy: epsilon/|available| everywhere, plus 1 - epsilon on the best available action."""
    best = torch.zeros_like(q).scatter(-1, greedy(q, available).unsqueeze(-1), 1.0)
    return _mixed(best, available, epsilon)


def softmax_probabilities(
    logits: Float[Tensor, "*batch action"], available: Bool[Tensor, "*batch action"], epsilon: float | Tensor
) -> Float[Tensor, "*batch action"]:
    """(1 - epsilon) softmax(logits) + epsilon/|available|, over the available actions (COMA's bounded softmax, arXiv:1705.08926)."""
    return _mixed(torch.softmax(logits.masked_fill(~available, -torch.inf), -1), available, epsilon)


def _mixed(policy: Tensor, available: Tensor, epsilon: float | Tensor) -> Tensor:
    return (1 - epsilon) * policy + epsilon * available / available.sum(-1, keepdim=True)


def draw(probabilities: Float[Tensor, "*batch action"], number: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """The action that a number in [0, 1) picks, by the inverse of the cumulated probabilities; never one of probability 0."""
    total = probabilities.cumsum(-1)
    return (total <= number.unsqueeze(-1) * total[..., -1:]).sum(-1)


def softmax_epsilon(
    logits: Float[Tensor, "env agent action"],
    available: Bool[Tensor, "env agent action"],
    epsilon: float | Tensor,
    key: Int[Tensor, " env"],
) -> tuple[Int[Tensor, "env agent"], Float[Tensor, "env agent"]]:
    """Actions drawn from `softmax_probabilities` and the probability with which each was drawn."""
    numbers = uniform(split(key, 2 * logits.shape[1])).unflatten(-1, (logits.shape[1], 2))
    policy = softmax_probabilities(logits, available, epsilon)
    action = draw(policy, numbers[..., 0])
    return action, policy.gather(-1, action.unsqueeze(-1)).squeeze(-1)
