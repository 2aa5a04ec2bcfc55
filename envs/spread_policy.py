"""A hand-written mover for spread (also MPE2's simple_spread): every agent works out the same matching and drives to its landmark.

1. Of all free agents and free landmarks the nearest pair belongs together; again until nobody is left.
2. A coasting agent comes to rest 0.4 v away (the velocity shrinks by a quarter each step of 0.1), and one push moves that point by 0.2:
   push along the axis on which it is furthest from the landmark, unless it is nearer than half a push.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_COASTING, _HALF_PUSH = 0.4, 0.1
_LEFT, _RIGHT, _DOWN, _UP = 1, 2, 3, 4


def landmark_mover(
    obs: Float[Tensor, "*batch agent obs"], available: Bool[Tensor, "*batch agent 5"], *, num_agents: int
) -> Int[Tensor, "*batch agent"]:
    """One action per agent from its own observation: velocity, position, landmarks and other agents as seen from itself."""
    n = num_agents
    velocity, landmark = obs[..., :2], obs[..., 4 : 4 + 2 * n].unflatten(-1, (n, 2))
    others = obs[..., 4 + 2 * n : 4 + 2 * n + 2 * (n - 1)].unflatten(-1, (n - 1, 2))
    agents = torch.cat((torch.zeros_like(landmark[..., :1, :]), others), -2)  # oneself first
    goal = landmark.gather(-2, _own_landmark(agents, landmark)[..., None, None].expand(*landmark.shape[:-2], 1, 2)).squeeze(-2)
    left = goal - _COASTING * velocity
    x, y = left.unbind(-1)
    push = torch.where(x.abs() >= y.abs(), torch.where(x > 0, _RIGHT, _LEFT), torch.where(y > 0, _UP, _DOWN))
    return torch.where(left.abs().amax(-1) < _HALF_PUSH, 0, push)


def _own_landmark(agents: Float[Tensor, "*batch n 2"], landmark: Float[Tensor, "*batch n 2"]) -> Int[Tensor, "*batch"]:
    """The first agent's landmark in the greedy matching."""
    n = agents.shape[-2]
    distance = (agents.unsqueeze(-2) - landmark.unsqueeze(-3)).square().sum(-1).flatten(-2)  # (*batch, agent x landmark)
    own = torch.zeros(distance.shape[:-1], dtype=torch.int64, device=distance.device)
    pair = torch.arange(n * n, device=distance.device)
    for _ in range(n):
        best = distance.argmin(-1, keepdim=True)
        own = torch.where(best.squeeze(-1) < n, best.squeeze(-1), own)
        taken = (pair // n == best // n) | (pair % n == best % n)
        distance = distance.masked_fill(taken, torch.inf)
    return own
