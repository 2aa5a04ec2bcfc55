"""QMIX's two-step game (arXiv:1803.11485, section 6): two agents, two actions, three states.

In state 1 the first agent's action leads to 2A (action 0) or 2B (action 1) and pays nothing. Then

    2A pays 7 whatever is played,     2B pays [[0, 1], [1, 8]],

and the episode terminates. The best return is 8; a sum of utilities cannot say so and settles for 7 under uniform
exploration. Observation of both agents and global state: one-hot of (1, 2A, 2B), unchanged by the last step.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from .base import TeamSpec, View
from .native import NativeEnv, Outcome
from .randomness import Clock

PAYOFF = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]])  # (place, first, second)
_PLACES = ("state_1", "state_2A", "state_2B")


@dataclass(frozen=True)
class TwoStepTask:
    """One moment: 0 in state 1, 1 in 2A, 2 in 2B."""

    place: Int[Tensor, " env"]


class TwoStep(NativeEnv[TwoStepTask]):
    """B copies of the two-step game."""

    def __init__(self):
        self.spec = TeamSpec(
            name="two-step",
            agents=("agent_0", "agent_1"),
            num_actions=2,
            obs_dim=3,
            state_dim=3,
            episode_limit=2,
            action_names=(("0", "1"), ("0", "1")),
            obs_names=(_PLACES, _PLACES),
            noop=None,
            return_range=(0.0, 8.0),
            team_reward="shared",
        )

    def begin(self, clock: Clock) -> TwoStepTask:
        return TwoStepTask(torch.zeros_like(clock.seed))

    def advance(self, task: TwoStepTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[TwoStepTask, Outcome]:
        first, second = action.unbind(1)
        ended = task.place > 0
        reward = PAYOFF.to(action.device)[task.place, first, second]
        outcome = Outcome(reward=reward, agent_reward=None, terminated=ended, truncated=torch.zeros_like(ended))
        return TwoStepTask(torch.where(ended, task.place, first + 1)), outcome

    def observe(self, task: TwoStepTask) -> View:
        state = (task.place.unsqueeze(-1) == torch.arange(3, device=task.place.device)).float()
        everyone = torch.ones(len(state), 2, dtype=torch.bool, device=state.device)
        return View(
            obs=state.unsqueeze(1).expand(-1, 2, -1),
            state=state,
            available=everyone.unsqueeze(-1).expand(-1, -1, 2),
            alive=everyone,
        )
