"""Ways to "measure credit" that are in use and wrong, kept to be shown wrong: what each computes instead, and where it was seen.

| name | what it computes instead |
|---|---|
| uniform_coalitions | the Banzhaf value, called Shapley (Fabien-Couthouis/XAI-in-RL, shapley_values.py; STAS's Bernoulli(1/2) masks) |
| inverse_order | gains handed to other agents than earned them (SQDDPG: a permutation used where its inverse belongs) |
| action_counts | who moved, not who earned (karanbhatia26/CAP-SHAP, ShapleyCalculator) |
| mean_advantage | 0 for every agent, by construction (COMA's advantage averaged over the policy it is an advantage of) |
| additive_fit | the Banzhaf value again: VDN's least squares on uniformly random joint actions |

All have the form that `benchmark.score_estimator` takes.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .base import all_coalitions
from .counterfactual import counterfactual_advantage
from .trial import Trial


def mean_table(game: Trial, budget: int) -> Float[Tensor, " coalition"]:
    """v of every coalition by mask, of a noisy game averaged over as many episodes as the budget has."""
    everything = all_coalitions(game.num_agents)
    if budget < len(everything):
        raise ValueError(f"budget is {budget}; the table of {game.num_agents} agents has {len(everything)} coalitions")
    if not game.problem.is_noisy:
        return game(everything)
    return game.play(everything, torch.arange(budget // len(everything))).mean(1)


def uniform_coalitions(game: Trial, num_agents: int, budget: int, seed: int) -> Float[Tensor, " agent"]:
    """v(C + i) - v(C) averaged over uniformly drawn C: large and small coalitions are too rare, so the index is Banzhaf's."""
    draws = budget // (2 * num_agents)
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(num_agents, draws, num_agents, generator=generator) < 0.5
    own = torch.eye(num_agents, dtype=torch.bool).unsqueeze(1)
    without, with_it = before & ~own, before | own
    values = game(torch.cat([with_it.flatten(0, 1), without.flatten(0, 1)])).unflatten(0, (2, num_agents, draws))
    return (values[0] - values[1]).mean(1)


def inverse_order(game: Trial, num_agents: int, budget: int, seed: int) -> Float[Tensor, " agent"]:
    """Random orders, but agent i is given the gain of turn order[i] instead of the turn at which it joins: it still adds up."""
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(num_agents, generator=generator) for _ in range(budget // (num_agents + 1))])
    turn = orders.argsort(1)
    teams = turn.unsqueeze(1) < torch.arange(num_agents + 1).view(1, -1, 1)
    gains = game(teams.flatten(0, 1)).unflatten(0, (len(orders), num_agents + 1)).diff(dim=1)
    return gains.gather(1, orders).mean(0)


def action_counts(game: Trial, num_agents: int, budget: int, seed: int) -> Float[Tensor, " agent"]:
    """Each agent's share of all that was done, times the team's value."""
    team = game(torch.tensor([[False], [True]]).expand(2, num_agents))
    did = game.actions
    return (team[1] - team[0]) * did / did.sum().clamp_min(1e-300)


def mean_advantage(game: Trial, num_agents: int, budget: int, seed: int) -> Float[Tensor, " agent"]:
    """E_{u ~ pi}[A_i(u)] with Q = v and every agent joining with probability 1/2: exactly 0, whatever the game."""
    q_table, joint = mean_table(game, budget), all_coalitions(num_agents)
    policy = torch.full((len(joint), num_agents, 2), 0.5, dtype=torch.float64)
    return counterfactual_advantage(_flips(q_table, joint), policy, joint.long()).mean(0)


def _flips(q_table: Float[Tensor, " coalition"], joint: Bool[Tensor, "coalition agent"]) -> Float[Tensor, "coalition agent action"]:
    """q[u, i, a]: the table's value of u with agent i's action replaced by a (0: out, 1: in)."""
    masks, bits = torch.arange(len(joint)).unsqueeze(1), 1 << torch.arange(joint.shape[1])
    return torch.stack([q_table[masks & ~bits], q_table[masks | bits]], -1)


def additive_fit(game: Trial, num_agents: int, budget: int, seed: int) -> Float[Tensor, " agent"]:
    """argmin over c, w of the mean (v(C) - c - sum_{i in C} w_i)^2 on uniformly drawn coalitions: the gaps of VDN's utilities."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(budget, num_agents, generator=generator) < 0.5
    inputs = torch.cat([torch.ones(budget, 1, dtype=torch.float64), drawn.double()], 1)
    return torch.linalg.lstsq(inputs, game(drawn).unsqueeze(1)).solution[1:, 0]
