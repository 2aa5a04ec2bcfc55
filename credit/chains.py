"""Two tasks with late rewards whose credit is known exactly, step by step and agent by agent: the delayed chain, and key and door.

Delayed chain: each agent has one right action at each step, worth weights[t, i]; what was hit is paid at the end.

    V_S(s_t) = earned before t + sum_{k >= t, i} weights[k, i] P_{S,i}(hit at k)        C[t, i] = weights[t, i] ([hit] - P_rho(hit))

Key and door: 1 at the end if the key agent takes the key at its step and the door agent opens at its later step; nothing else counts.
With p the reference's chance of the one right action,

    C[key step, key agent] = (1 - p^2) / 2,    C[key step, door agent] = -(1 - p)^2 / 2,    C[door step, door agent] = 1 - p

The door agent's negative entry is no fault of its own: the key is worth more to a team whose door agent would open than to one that
follows the reference, so that part of its own gain is taken at the step of the key and paid back when it opens. Its column adds up to
the key agent's. `C` is the switch-off matrix (switch_off.py); the teams are deterministic.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .base import all_coalitions

Reference = Literal["random", "noop"]


@dataclass(frozen=True)
class LateCredit:
    """The truth along the one episode that a deterministic team plays."""

    rewards: Float[Tensor, " time"]
    values: Float[Tensor, "coalition moment"]
    """V_S of every moment, coalitions as in `all_coalitions`; 0 at the last, when all is paid."""
    matrix: Float[Tensor, "time agent"]
    """C in closed form."""


def _chance(reference: str, num_actions: int) -> float:
    """P(the reference plays a given action other than the one that does nothing)."""
    if reference not in get_args(Reference):
        raise ValueError(f'reference is {reference!r}; choose "random" or "noop"')
    if num_actions < 2:
        raise ValueError(f"num_actions is {num_actions}; it is at least 2")
    return 1 / num_actions if reference == "random" else 0.0


def delayed_chain(
    weights: Float[Tensor, "time agent"], hits: Bool[Tensor, "time agent"], *, num_actions: int, reference: Reference
) -> LateCredit:
    """The delayed chain of a team that plays the right action where `hits` is True.

    Args:
        weights: what hitting is worth.
        hits: where the team hits.
        num_actions: how many actions the random reference chooses from, one of them right.
        reference: uniform over the actions, or the one that does nothing (never right).
    """
    p = _chance(reference, num_actions)
    w, hit = weights.to(torch.float64), hits.to(torch.float64)
    steps, n = w.shape
    inside = all_coalitions(n).to(torch.float64)
    values = torch.zeros(2**n, steps + 1, dtype=torch.float64)
    earned = (w * hit).sum(1).cumsum(0)
    to_come = torch.zeros(2**n, dtype=torch.float64)
    for t in reversed(range(steps)):
        to_come = to_come + (inside * (w * hit)[t] + (1 - inside) * w[t] * p).sum(1)
        values[:, t] = to_come + (earned[t - 1] if t else 0.0)
    rewards = torch.zeros(steps, dtype=torch.float64)
    rewards[-1] = earned[-1]
    return LateCredit(rewards=rewards, values=values, matrix=w * (hit - p))


def key_and_door(
    reference: Reference,
    *,
    num_agents: int = 3,
    steps: int = 6,
    key_step: int = 1,
    door_step: int = 4,
    key_agent: int = 0,
    door_agent: int = 1,
    num_actions: int = 3,
) -> LateCredit:
    """Key and door of a team that succeeds, by dynamic programming over (step, key taken, door opened)."""
    if not 0 <= key_step < door_step < steps:
        raise ValueError(f"key_step {key_step}, door_step {door_step}, steps {steps}: they must rise from 0 on")
    if key_agent == door_agent or not all(0 <= agent < num_agents for agent in (key_agent, door_agent)):
        raise ValueError(f"key_agent {key_agent} and door_agent {door_agent} must be two of the agents 0 to {num_agents - 1}")
    p = _chance(reference, num_actions)
    inside = all_coalitions(num_agents)
    alone = torch.full((2**num_agents,), p, dtype=torch.float64)
    takes, opens = (alone.masked_fill(inside[:, agent], 1.0) for agent in (key_agent, door_agent))
    ahead = torch.zeros(2, 2, 2**num_agents, dtype=torch.float64)  # V_S by whether the key was taken, and whether the door was opened
    ahead[1, 1] = 1.0  # what the last step pays
    values = torch.zeros(2**num_agents, steps + 1, dtype=torch.float64)
    for t in reversed(range(steps)):
        if t == door_step:
            ahead[:, 0] = opens * ahead[:, 1] + (1 - opens) * ahead[:, 0]
        if t == key_step:
            ahead[0] = takes * ahead[1] + (1 - takes) * ahead[0]
        values[:, t] = ahead[int(t > key_step), int(t > door_step)]
    rewards = torch.zeros(steps, dtype=torch.float64)
    rewards[-1] = 1.0
    matrix = torch.zeros(steps, num_agents, dtype=torch.float64)
    matrix[key_step, key_agent] = (1 - p**2) / 2
    matrix[key_step, door_agent] = -((1 - p) ** 2) / 2
    matrix[door_step, door_agent] = 1 - p
    return LateCredit(rewards=rewards, values=values, matrix=matrix)
