"""Matrix games as credit problems (family B): members keep their part of the best joint action, the others follow a reference.

    v(C) = E[payoff(u)],   u_i = u*_i for i in C, else uniform over i's actions (or action 0);   u* = argmax payoff

The two-step game is worth its return from the first state: agent 0 leads to 2B, there both play their part of the 8.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...credit.base import all_coalitions
from ...credit.problems import Problem, make_problem
from ...envs.matrix import GAMES, penalty_game
from ...envs.two_step import PAYOFF

NAMED = ("climbing", "qtran", "qplex-3", "climbing-3p")
Reference = Literal["uniform", "first"]
_WORDS: dict[Reference, str] = {"uniform": "uniform over its actions", "first": "action 0"}


def coalition_values(payoff: Tensor, best: Sequence[int], reference: Reference = "uniform") -> Float[Tensor, " coalition"]:
    """v of every coalition by mask; `payoff` has an axis per agent, `best` an action per agent."""
    payoff = payoff.to(torch.float64)

    def value(members: list[bool]) -> float:
        left = payoff
        for agent, inside in enumerate(members):  # the first axis left is this agent's
            left = left[best[agent]] if inside else left.mean(0) if reference == "uniform" else left[0]
        return float(left)

    return torch.tensor([value(members) for members in all_coalitions(payoff.dim()).tolist()], dtype=torch.float64)


def best_joint_action(payoff: Tensor) -> list[int]:
    """Where the payoff is highest (the first such entry)."""
    return [int(index) for index in torch.unravel_index(payoff.argmax(), payoff.shape)]


def two_step() -> Problem:
    """B1: v(C) is the return of both steps."""
    first, second = PAYOFF[1].double(), PAYOFF[2].double()
    in_2a, in_2b = coalition_values(first, (1, 1)), coalition_values(second, (1, 1))
    leads = all_coalitions(2)[:, 0].double()  # agent 0 leads to 2B; its stand-in to either
    chance = leads + (1 - leads) / 2
    return make_problem("B1", "two-step game", chance * in_2b + (1 - chance) * in_2a, reference=_WORDS["uniform"])


def drawn_payoff(num_agents: int, num_actions: int, generator: torch.Generator) -> Tensor:
    """Normal payoffs in which the last agent's action changes nothing."""
    return torch.randn(*[num_actions] * (num_agents - 1), 1, generator=generator).expand(*[num_actions] * num_agents)


def _drawn(num_agents: int, reference: Reference, generator: torch.Generator) -> Problem:
    payoff = drawn_payoff(num_agents, 3, generator)
    values = coalition_values(payoff, best_joint_action(payoff), reference)
    return make_problem("B2", f"payoffs of {num_agents} agents, drawn by the seed", values, reference=_WORDS[reference])


def matrix_problems(seed: int, drawn: int = 1) -> list[Problem]:
    """B1, the named games, and for each drawn one a game under either reference."""
    problems = [two_step()]
    for name, table in [*((name, GAMES[name]) for name in NAMED), ("penalty", penalty_game(100.0))]:
        payoff = torch.tensor(table, dtype=torch.float64)
        problems.append(make_problem("B2", name, coalition_values(payoff, best_joint_action(payoff)), reference=_WORDS["uniform"]))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(drawn):
        problems += [_drawn(4, "first", generator), _drawn(5, "uniform", generator)]
    return problems
