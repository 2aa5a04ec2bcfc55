"""Uphill: each agent may push a stone of its own up a slope; every push costs the team, and only a stone at the top pays it.

    height <- height + 1 (push)  or  max(height - 1, 0) (rest);          R = sum_i 1[stone i reached the top] - toll (number of pushes)

Built as an exploration trap. Random play takes a stone to the top so seldom that on average a push loses, and the more so the less an
agent explores: one that pushes with probability 1/4 instead of 1/2 arrives 57 times less often. So a learner that does not know the way
up when exploration ends has every reason to rest; and to rest looks ever better, since the team is paid for what teammates bring up
meanwhile (so the lazy agent arises that VDN was made against, Sunehag et al. 2018). Nothing but the reward couples the agents.
Everything is known exactly:

    best team return      n (1 - toll H): each agent pushes H times in a row and then rests
    effect of an agent    1 - toll H beside any teammates, against one that rests; the credit is additive
    random play           n (p - toll q), with p = P(the top is reached), q = E[pushes before that], by the recursion of `random_play`

A stone at the top stays there; to push it then changes nothing and costs nothing. The episode terminates after `steps` env steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from .base import TeamSpec, View
from .native import NativeEnv, Outcome
from .randomness import Clock

ACTION_NAMES = ("rest", "push")
_REST, _PUSH = 0, 1


@dataclass(frozen=True)
class UphillTask:
    """One moment."""

    height: Int[Tensor, "env agent"]
    """Of each agent's stone: 0 to the top."""
    step: Int[Tensor, " env"]
    """Env steps taken in this episode."""


class Uphill(NativeEnv[UphillTask]):
    """B copies of uphill.

    An agent observes its own stone's height and the share of the time that is left; so all agents see and can do the same things. The
    state is every stone's height, and that share.

    Args:
        num_agents: n, at least 2.
        height: H, pushes to the top, at least 2.
        steps: env steps of an episode, at least H.
        toll: what a push costs the team; above 0, and less than 1 / H, so that the top is worth its pushes.
    """

    def __init__(self, num_agents: int = 3, height: int = 6, steps: int = 10, *, toll: float = 1 / 40):
        if num_agents < 2:
            raise ValueError(f"num_agents is {num_agents}; it is at least 2")
        if height < 2:
            raise ValueError(f"height is {height}; it is at least 2")
        if steps < height:
            raise ValueError(f"steps is {steps}; a stone needs {height} pushes to the top")
        if not 0 < toll < 1 / height:
            raise ValueError(f"toll is {toll}; it is above 0 and below 1 / {height}, or the top would not be worth its pushes")
        self.num_agents, self.height, self.steps, self.toll = num_agents, height, steps, float(toll)
        names = (*(f"stone at {h}" for h in range(height)), "stone at the top", "time left")
        self.spec = TeamSpec(
            name="uphill",
            agents=tuple(f"agent_{i}" for i in range(num_agents)),
            num_actions=len(ACTION_NAMES),
            obs_dim=len(names),
            state_dim=num_agents * (height + 1) + 1,
            episode_limit=steps,
            action_names=(ACTION_NAMES,) * num_agents,
            obs_names=(names,) * num_agents,
            noop=(_REST,) * num_agents,
            return_range=(-num_agents * self.toll * self.most_vain_pushes, num_agents * (1 - self.toll * height)),
            team_reward="shared",
        )

    @property
    def most_vain_pushes(self) -> int:
        """Pushes of one agent that never reaches the top, at most: up to just below it, then rest and push in turns."""
        return self.height - 1 + (self.steps - self.height + 1) // 2

    @property
    def scripted(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """`pusher` pushes until its stone is at the top; `trained` is another name for it."""
        return {"trained": self._push, "pusher": self._push}

    def begin(self, clock: Clock) -> UphillTask:
        start = torch.zeros_like(clock.seed)
        return UphillTask(height=start.unsqueeze(1).repeat(1, self.num_agents), step=start)

    def advance(self, task: UphillTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[UphillTask, Outcome]:
        is_done = task.height == self.height
        pushes = (action == _PUSH) & ~is_done
        moved = torch.where(pushes, task.height + 1, (task.height - 1).clamp(min=0))
        height = torch.where(is_done, task.height, moved)
        arrived = (height == self.height) & ~is_done
        step = task.step + 1
        terminated = step >= self.steps
        outcome = Outcome(
            reward=arrived.sum(1).float() - self.toll * pushes.sum(1).float(),
            agent_reward=None,
            terminated=terminated,
            truncated=torch.zeros_like(terminated),
        )
        return UphillTask(height=height, step=step), outcome

    def observe(self, task: UphillTask) -> View:
        batch, device = len(task.step), task.step.device
        heights = (task.height.unsqueeze(-1) == torch.arange(self.height + 1, device=device)).float()
        left = ((self.steps - task.step).double() / self.steps).float().unsqueeze(1)
        everyone = torch.ones(batch, self.num_agents, dtype=torch.bool, device=device)
        return View(
            obs=torch.cat((heights, left.unsqueeze(1).expand(-1, self.num_agents, -1)), -1),
            state=torch.cat((heights.flatten(1), left), 1),
            available=everyone.unsqueeze(-1).expand(-1, -1, len(ACTION_NAMES)),
            alive=everyone,
        )

    def _push(self, obs: Tensor, available: Tensor) -> Tensor:
        return torch.where(obs[..., self.height] > 0, _REST, _PUSH)


def random_play(height: int, steps: int, push: float = 0.5) -> tuple[float, float]:
    """(P(the top is reached), E[pushes before that]) of an agent that pushes with probability `push` at every step, by recursion."""
    at, arrived, pushes = [1.0] + [0.0] * (height - 1), 0.0, 0.0
    for _ in range(steps):
        following = [0.0] * (height + 1)
        for h, chance in enumerate(at):
            pushes += chance * push
            following[h + 1] += chance * push
            following[max(h - 1, 0)] += chance * (1 - push)
        arrived, at = arrived + following.pop(), following
    return arrived, pushes
