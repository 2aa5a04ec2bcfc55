"""Games whose credit is known: the ground truth that estimators are tested on.

Each function returns a `TrueGame`: call it on bool coalitions (m, n) to get values (m,), read `.shapley` and `.leave_one_out`.
The truths are closed forms, or counted by another road than `credit.shapley`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .base import without_each


@dataclass(frozen=True)
class TrueGame:
    """A coalition game with its true credit."""

    name: str
    num_agents: int
    value: Callable[[Tensor], Tensor]
    """v: float coalitions (m, n) of 0 and 1 -> (m,)."""
    shapley: Float[Tensor, " agent"]

    def __call__(self, coalitions: Bool[Tensor, "coalition agent"], /) -> Float[Tensor, " coalition"]:
        return self.value(coalitions.to(torch.float64)).to(torch.float64)

    @property
    def leave_one_out(self) -> Float[Tensor, " agent"]:
        """v(N) - v(N without i)."""
        values = self(without_each(self.num_agents))
        return values[-1] - values[:-1]


def _vector(values: Sequence[float | int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def additive(weights: Sequence[float | int]) -> TrueGame:
    """v(C) = sum of the members' weights; a weight of 0 is a dummy. Everybody earns their weight under every index."""
    w = _vector(weights)
    return TrueGame("additive", len(w), lambda c: c @ w, w)


def airport(costs: Sequence[float | int]) -> TrueGame:
    """v(C) = the largest cost in C (a runway as long as the longest plane needs).

    phi_i = sum_{k<=i} (c_k - c_{k-1}) / (n - k + 1), costs rising (Littlechild and Owen 1973).
    """
    c = _vector(costs)
    if len(c) == 0 or bool((c.diff() < 0).any()) or c[0] < 0:
        raise ValueError(f"airport costs {list(costs)} must be at least 0 and rise from the first agent to the last")
    steps = torch.cat([c[:1], c.diff()])
    sharing = torch.arange(len(c), 0, -1, dtype=torch.float64)
    return TrueGame("airport", len(c), lambda coalition: (coalition * c).amax(1), (steps / sharing).cumsum(0))


def glove(lefts: int, rights: int) -> TrueGame:
    """v(C) = pairs of gloves; the first `lefts` agents own a left one, the others a right one."""
    n = lefts + rights

    def share(own: int, other: int) -> float:
        """P(at my turn more of the other kind than of mine are there): then I make a pair."""
        return sum(comb(own - 1, a) * comb(other, b) / (n * comb(n - 1, a + b)) for a in range(own) for b in range(a + 1, other + 1))

    truth = [share(lefts, rights)] * lefts + [share(rights, lefts)] * rights
    return TrueGame("glove", n, lambda c: torch.minimum(c[:, :lefts].sum(1), c[:, lefts:].sum(1)), _vector(truth))


def majority(num_agents: int, needed: int) -> TrueGame:
    """v(C) = 1 if C has at least `needed` members: 1/n each, and leave-one-out 0 for everybody unless all are needed."""
    if not 1 <= needed <= num_agents:
        raise ValueError(f"needed is {needed}; a vote of {num_agents} agents needs 1 to {num_agents} of them")
    return TrueGame("majority", num_agents, lambda c: (c.sum(1) >= needed).to(torch.float64), _vector([1 / num_agents] * num_agents))


def weighted_vote(quota: int, weights: Sequence[int]) -> TrueGame:
    """v(C) = 1 if the members' weights reach the quota. Truth: pivots counted by size and weight of the others (a knapsack table)."""
    n = len(weights)
    w = _vector(weights)

    def share(agent: int) -> float:
        ways = {(0, 0): 1}  # (size, weight) of a coalition of the others -> how many there are
        for other in (k for k in range(n) if k != agent):
            for (size, weight), count in list(ways.items()):
                grown = (size + 1, weight + weights[other])
                ways[grown] = ways.get(grown, 0) + count
        pivots = (count / (n * comb(n - 1, size)) for (size, weight), count in ways.items() if weight < quota <= weight + weights[agent])
        return sum(pivots, 0.0)

    return TrueGame("weighted vote", n, lambda c: (c @ w >= quota).to(torch.float64), _vector([share(agent) for agent in range(n)]))


def unanimity(num_agents: int, members: Sequence[int]) -> TrueGame:
    """v(C) = 1 if all `members` are in C: an equal split among them; the others are dummies."""
    inside = torch.zeros(num_agents, dtype=torch.float64)
    inside[list(members)] = 1
    return TrueGame("unanimity", num_agents, lambda c: (c @ inside == inside.sum()).to(torch.float64), inside / inside.sum())


def either_or_with_worker() -> TrueGame:
    """v(C) = 2 [0 or 1 in C] + [2 in C]: agents 0 and 1 can stand in for each other, so both have leave-one-out 0."""
    return TrueGame("either-or pair and a worker", 3, lambda c: 2 * c[:, :2].amax(1) + c[:, 2], _vector([1, 1, 1]))


def harmful_agent() -> TrueGame:
    """v(C) = max(0, 2 |C without 2| - [2 in C]): two workers and a saboteur."""
    return TrueGame("harmful agent", 3, lambda c: (2 * c[:, :2].sum(1) - c[:, 2]).clamp_min(0), _vector([11 / 6, 11 / 6, -2 / 3]))


def two_additive(weights: Float[Tensor, " agent"], interaction: Float[Tensor, "agent agent"]) -> TrueGame:
    """v(C) = sum_i w_i + sum_{i<j} I_ij over members; `interaction` is symmetric with diagonal 0. phi_i = w_i + 1/2 sum_j I_ij."""
    w, pairs = weights.to(torch.float64), interaction.to(torch.float64)
    if not torch.equal(pairs, pairs.T) or bool(pairs.diagonal().any()):
        raise ValueError("the interaction matrix must be symmetric with zeros on its diagonal")
    return TrueGame("2-additive", len(w), lambda c: c @ w + torch.einsum("ci,ij,cj->c", c, pairs, c) / 2, w + pairs.sum(1) / 2)


def random_two_additive(num_agents: int, generator: torch.Generator) -> TrueGame:
    """A 2-additive game with standard normal weights and interactions."""
    weights = torch.randn(num_agents, generator=generator, dtype=torch.float64)
    upper = torch.randn(num_agents, num_agents, generator=generator, dtype=torch.float64).triu(1)
    return two_additive(weights, upper + upper.T)
