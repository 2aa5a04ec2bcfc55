"""This package's estimators in the form that `benchmark.score_estimator` takes: (game, num_agents, budget, seed) -> Credit."""

import torch
from torch import Tensor

from .base import LARGEST_EXACT, Credit
from .benchmark import Estimate
from .difference import leave_one_out
from .known_wrong import mean_table
from .problems import Problem
from .sampling import Sampler, calls
from .shapley import banzhaf_from_values, shapley
from .trial import Trial


def exact(game: Trial, num_agents: int, budget: int, seed: int) -> Credit:
    """All coalitions; of a noisy game on as many paired episodes as the budget has."""
    if not game.problem.is_noisy:
        return shapley(lambda coalitions: game(coalitions), num_agents, exact_up_to=LARGEST_EXACT)
    return shapley(game, num_agents, episodes=budget // 2**num_agents, exact_up_to=LARGEST_EXACT)


def sampled(way: Sampler) -> Estimate:
    """As many draws of this way as the budget has, each on an episode of its own."""

    def estimate(game: Trial, num_agents: int, budget: int, seed: int) -> Credit:
        draws = budget // calls(way, num_agents)
        generator = torch.Generator().manual_seed(seed)
        return shapley(game, num_agents, episodes=draws, rings=draws, exact_up_to=0, sampler=way, generator=generator)

    return estimate


def alone(game: Trial, num_agents: int, budget: int, seed: int) -> Credit:
    """Leave-one-out: v(N) - v(N without i)."""
    if not game.problem.is_noisy:
        return leave_one_out(lambda coalitions: game(coalitions), num_agents)
    return leave_one_out(game, num_agents, episodes=budget // (num_agents + 1))


def banzhaf(game: Trial, num_agents: int, budget: int, seed: int) -> Tensor:
    """The Banzhaf value from all coalitions."""
    return banzhaf_from_values(mean_table(game, budget))


def least_budget(problem: Problem) -> int:
    """What every estimator of this file needs on the problem: two draws, and all coalitions (of a noisy game on two episodes)."""
    n = problem.num_agents
    return max(2 * calls("stratified", n), 2 * calls("rings", n), 2 ** (n + problem.is_noisy))
