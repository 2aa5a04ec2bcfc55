"""Ways to sample Shapley values: which coalitions one draw looks at, and the unbiased estimate made of their values.

| name | a draw | calls of v in a draw of n agents |
|---|---|---|
| rings | a random circular order, read from every place in both directions | n (n - 1) + 2 |
| cyclic | the same in one direction: an order and its n - 1 shifts, so that every agent takes every position once | n (n - 1) + 2 |
| plain | one random order | n + 1 |
| antithetic | a random order and its reverse; exact for 2-additive games | 2 n |
| stratified | for every agent and every size, a random coalition of that size without it | 2 n^2 + 2 |

Rings, cyclic, plain and antithetic add up to v(N) - v(empty) in every draw; stratified does so on average only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Sampler = Literal["rings", "cyclic", "plain", "antithetic", "stratified"]
HOW: dict[str, str] = {
    "rings": "rings: every agent in every position, both directions",
    "cyclic": "random orders and their shifts: every agent in every position",
    "plain": "random orders",
    "antithetic": "random orders and their reverse",
    "stratified": "a random coalition of every size for each agent",
}
"""Each way in words."""


@dataclass(frozen=True)
class Draw:
    """One unbiased estimate of all agents' Shapley values, before the game is asked."""

    coalitions: Bool[Tensor, "coalition agent"]
    """What the game is asked; the last two rows are nobody and everybody."""
    combine: Callable[[Tensor], Tensor]
    """Values (coalition, *batch) -> estimate (agent, *batch)."""


def check_sampler(name: str) -> None:
    """ValueError for a name that no way has."""
    if name not in get_args(Sampler):
        raise ValueError(f"sampler is {name!r}; choose one of {', '.join(get_args(Sampler))}")


def draw(sampler: Sampler, num_agents: int, generator: torch.Generator) -> Draw:
    """A fresh draw of the way named."""
    if sampler == "stratified":
        return _stratified(num_agents, generator)
    order = torch.randperm(num_agents, generator=generator)
    if sampler == "rings":
        return Draw(ring_coalitions(order), lambda values: shapley_from_ring(order, values))
    if sampler == "cyclic":
        place = torch.arange(num_agents)
        return _of_orders(order[(place.unsqueeze(1) + place) % num_agents])
    return _of_orders(order.unsqueeze(0) if sampler == "plain" else torch.stack([order, order.flip(0)]))


def calls(sampler: Sampler, num_agents: int) -> int:
    """How often a draw asks for a value."""
    return len(draw(sampler, num_agents, torch.Generator()).coalitions)


def _ends(num_agents: int) -> Bool[Tensor, "2 agent"]:
    return torch.tensor([[False], [True]]).expand(2, num_agents)


def _of_orders(orders: Int[Tensor, "order agent"]) -> Draw:
    """Each agent's gain at its turn, averaged over the orders. `orders[k, p]` is the agent that joins at turn p."""
    count, n = orders.shape
    turn = orders.argsort(1)  # turn[k, i]: when agent i joins
    joined = turn.unsqueeze(1) < torch.arange(1, n).view(1, -1, 1)  # (order, members - 1, agent)

    def combine(values: Tensor) -> Tensor:
        batch = values.shape[1:]
        teams = torch.empty(count, n + 1, *batch, dtype=torch.float64)
        teams[:, 1:n] = values[:-2].to(torch.float64).unflatten(0, (count, n - 1))
        teams[:, 0], teams[:, n] = values[-2], values[-1]
        gain = teams.diff(dim=1)  # of whoever joins at turn p
        return gain[torch.arange(count).unsqueeze(1), turn].mean(0)

    return Draw(torch.cat([joined.flatten(0, 1), _ends(n)]), combine)


def _stratified(num_agents: int, generator: torch.Generator) -> Draw:
    """Each agent's gain at each size of the others, one coalition a size."""
    n = num_agents
    rank = torch.rand(n, n, n, generator=generator)  # (agent, size, other)
    rank.diagonal(dim1=0, dim2=2).fill_(2.0)  # the agent itself comes last, so it is in no coalition of the others
    before = rank.argsort(2).argsort(2) < torch.arange(n).view(1, -1, 1)
    after = before | torch.eye(n, dtype=torch.bool).unsqueeze(1)

    def combine(values: Tensor) -> Tensor:
        with_it, without = values[:-2].to(torch.float64).unflatten(0, (2, n, n))
        return (with_it - without).mean(1)

    return Draw(torch.cat([after.flatten(0, 1), before.flatten(0, 1), _ends(n)]), combine)


def ring_coalitions(ring: Int[Tensor, " agent"]) -> Bool[Tensor, "coalition agent"]:
    """The n (n - 1) + 2 arcs of a circular order: row s (n - 1) + L - 1 holds the L agents from place s on; then nobody; then everybody."""
    n = len(ring)
    place = torch.arange(n)
    start, length = place.repeat_interleave(n - 1), torch.arange(1, n).repeat(n)
    inside = (place.unsqueeze(0) - start.unsqueeze(1)) % n < length.unsqueeze(1)
    arcs = torch.zeros_like(inside)
    arcs[:, ring] = inside
    return torch.cat([arcs, torch.zeros(1, n, dtype=torch.bool), torch.ones(1, n, dtype=torch.bool)])


def shapley_from_ring(ring: Int[Tensor, " agent"], values: Float[Tensor, "coalition *batch"]) -> Float[Tensor, "agent *batch"]:
    """One unbiased estimate of the Shapley values from the values of `ring_coalitions(ring)`.

        phi_p = 1/(2n) sum_{L<n} [A(p - L, L + 1) - A(p - L, L)] + [A(p, L + 1) - A(p + 1, L)],    A(s, L) = v(L agents from place s)

    The first bracket is the agent at place p joining the L before it, the second joining the L after it (the ring read backwards).
    """
    n = len(ring)
    batch = values.shape[1:]
    arcs = torch.empty(n, n + 1, *batch, dtype=torch.float64)
    arcs[:, 1:n] = values[: n * (n - 1)].to(torch.float64).unflatten(0, (n, n - 1))
    arcs[:, 0], arcs[:, n] = values[-2], values[-1]
    place, length = torch.arange(n).unsqueeze(1), torch.arange(n).unsqueeze(0)
    before = arcs[(place - length) % n, length + 1] - arcs[(place - length) % n, length]
    after = arcs[place, length + 1] - arcs[(place + 1) % n, length]
    value = torch.empty(n, *batch, dtype=torch.float64)
    value[ring] = (before + after).mean(1) / 2
    return value
