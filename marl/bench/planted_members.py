"""Scripted members of planted teams: who is good, and who only looks like it.

On foraging every agent works out all the others' moves anyway, so one call plays all good members of a copy, in a third of the time. Only
who is cornered at the lower or right edge, which the first player does not see, may stay where alone it would have stepped aside.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...envs.base import TeamSpec, View
from ...envs.foraging_policy import LOAD, MOVES, expected_cells
from ...envs.randomness import POLICY, Clock, split, uniform
from ...envs.spread_policy import landmark_mover
from ..agents import UtilityNetwork
from ..policies import Override, Policy, Team

RARELY = 0.02
"""How often a "rare" member of a coalition game joins."""
_WIDE = 1024


class Nobody(UtilityNetwork):
    """The network of a team in which every member is planted: zeros, which are never acted on."""

    def __init__(self, spec: TeamSpec):
        nn.Module.__init__(self)
        self.num_agents, self.num_actions, self.memory_dim = spec.num_agents, spec.num_actions, 0

    def forward(self, obs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(*obs.shape[:2], self.num_actions), memory


class Once:
    """A policy worked out once per view, however many ask for it (good members, their half-trained copies, stand-ins)."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self.view: View | None = None
        self.action = torch.zeros(0)

    def __call__(self, view: View, clock: Clock) -> Int[Tensor, "env agent"]:
        if self.view is not view:
            self.view, self.action = view, self.policy(view, clock)
        return self.action


def foragers(
    obs: Float[Tensor, "env agent obs"], available: Bool[Tensor, "env agent 6"], *, num_food: int, num_players: int
) -> Int[Tensor, "env agent"]:
    """`envs.foraging_policy.greedy_forager` of all players at once, from what the first of them sees."""
    players, wish = (part[:, 0] for part in expected_cells(obs[:, :1], available[:, :1], num_food=num_food, num_players=num_players))
    items = obs[:, 0, : 3 * (num_food + num_players)].unflatten(-1, (-1, 3)).long()
    food, level = items[:, :num_food], items[:, num_food:, 2:]
    beside = (food[:, None, :, :2] - players[:, :, None]).abs().sum(-1) == 1  # (env, player, food)
    ready = beside & (((beside * level).sum(1) >= food[..., 2]) & (food[..., 2] > 0)).unsqueeze(1)
    move = ((wish - players).unsqueeze(2) == MOVES).all(-1)
    code = players[..., 0] * _WIDE + players[..., 1]
    clash = ((wish.unsqueeze(2) == wish.unsqueeze(1)).all(-1) & (code.unsqueeze(1) < code.unsqueeze(2))).any(2)
    step = torch.where(move.any(-1) & ~clash, move.to(torch.int64).argmax(-1) + 1, 0)
    action = torch.where(ready.any(-1), LOAD, step)
    return torch.where(available.gather(-1, action.unsqueeze(-1)).squeeze(-1), action, 0)


def forager_policy(num_food: int, num_players: int) -> Policy:
    """All foragers; also on real Level-Based Foraging, which shows the same."""
    return Once(lambda view, clock: foragers(view.obs, view.available, num_food=num_food, num_players=num_players))


def mover_policy(num_agents: int) -> Policy:
    """All movers of spread; also on MPE2's."""
    return Once(lambda view, clock: landmark_mover(view.obs, view.available, num_agents=num_agents))


def joiner(view: View, clock: Clock) -> Int[Tensor, "env agent"]:
    """Always joins."""
    return torch.ones_like(view.alive, dtype=torch.int64)


def rare_joiner(view: View, clock: Clock) -> Int[Tensor, "env agent"]:
    """Joins with probability RARELY."""
    agents = view.alive.shape[1]
    return (uniform(split(clock.key(POLICY), 2 * agents)).unflatten(-1, (agents, 2))[..., 0] < RARELY).to(torch.int64)


def plant(spec: TeamSpec, members: Sequence[str], policies: dict[str, Policy]) -> Team:
    """A team whose members follow the named policies, one override per policy."""
    kinds = list(dict.fromkeys(members))
    overrides = tuple(Override(policies[kind], torch.tensor([member == kind for member in members])) for kind in kinds)
    return Team(Nobody(spec), overrides, dict(zip(spec.agents, members, strict=True)))
