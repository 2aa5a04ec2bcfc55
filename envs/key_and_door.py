"""Key and door: one agent takes the key in time, another opens the door later, and the reward comes at the end; credit is known exactly.

    R = [agent `key_agent` takes at step `key_step`] [agent `door_agent` opens at step `door_step`],        paid with the last step

All else changes nothing: other agents, other steps, and what these two do at other steps. The episode terminates after `steps` env
steps. Neither half is worth anything alone, and both are over before anything is paid. `credit/chains.py` has the truth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .base import TeamSpec, View
from .native import NativeEnv, Outcome
from .randomness import Clock

ACTION_NAMES = ("wait", "take", "open")
_WAIT, _TAKE, _OPEN = range(3)


@dataclass(frozen=True)
class KeyTask:
    """One moment."""

    step: Int[Tensor, " env"]
    """Env steps taken in this episode."""
    has_key: Bool[Tensor, " env"]
    """The key was taken at its step."""
    is_open: Bool[Tensor, " env"]
    """The door was opened at its step (with or without a key)."""


class KeyAndDoor(NativeEnv[KeyTask]):
    """B copies of key and door.

    An agent observes who it is, the step, and whether the key was taken. The state is the step, and whether the key was taken and the
    door opened.

    Args:
        num_agents: at least 2.
        steps: env steps of an episode.
        key_step: when the key must be taken.
        door_step: when the door must be opened, after the key.
        key_agent: who can take it.
        door_agent: who can open it; another one.
    """

    def __init__(
        self, num_agents: int = 3, steps: int = 6, *, key_step: int = 1, door_step: int = 4, key_agent: int = 0, door_agent: int = 1
    ):
        if num_agents < 2:
            raise ValueError(f"num_agents is {num_agents}; it is at least 2")
        if not 0 <= key_step < door_step < steps:
            raise ValueError(f"key_step {key_step}, door_step {door_step}, steps {steps}: they must rise from 0 on")
        if key_agent == door_agent or not all(0 <= agent < num_agents for agent in (key_agent, door_agent)):
            raise ValueError(f"key_agent {key_agent} and door_agent {door_agent} must be two of the agents 0 to {num_agents - 1}")
        self.num_agents, self.steps = num_agents, steps
        self.key_step, self.door_step, self.key_agent, self.door_agent = key_step, door_step, key_agent, door_agent
        names = (*(f"agent {i}" for i in range(num_agents)), *(f"step {t}" for t in range(steps)), "key taken")
        self.spec = TeamSpec(
            name="key-and-door",
            agents=tuple(f"agent_{i}" for i in range(num_agents)),
            num_actions=len(ACTION_NAMES),
            obs_dim=len(names),
            state_dim=steps + 2,
            episode_limit=steps,
            action_names=(ACTION_NAMES,) * num_agents,
            obs_names=(names,) * num_agents,
            noop=(_WAIT,) * num_agents,
            return_range=(0.0, 1.0),
            team_reward="shared",
        )

    @property
    def scripted(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """`trained`: take at the key's step, open at the door's, the two agents who can; else wait."""
        return {"trained": self._trained}

    def begin(self, clock: Clock) -> KeyTask:
        start = torch.zeros_like(clock.seed)
        return KeyTask(step=start, has_key=start > 0, is_open=start > 0)

    def advance(self, task: KeyTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[KeyTask, Outcome]:
        has_key = task.has_key | ((task.step == self.key_step) & (action[:, self.key_agent] == _TAKE))
        is_open = task.is_open | ((task.step == self.door_step) & (action[:, self.door_agent] == _OPEN))
        step = (task.step + 1).clamp(max=self.steps)
        terminated = step == self.steps
        reward = (terminated & has_key & is_open).float()
        outcome = Outcome(reward=reward, agent_reward=None, terminated=terminated, truncated=torch.zeros_like(terminated))
        return KeyTask(step=step, has_key=has_key, is_open=is_open), outcome

    def observe(self, task: KeyTask) -> View:
        batch, n, device = len(task.step), self.num_agents, task.step.device
        step = (task.step.unsqueeze(-1) == torch.arange(self.steps, device=device)).float()  # zeros after the last
        key, door = task.has_key.float().unsqueeze(1), task.is_open.float().unsqueeze(1)
        seen = torch.cat((step, key), 1).unsqueeze(1).expand(-1, n, -1)
        everyone = torch.ones(batch, n, dtype=torch.bool, device=device)
        return View(
            obs=torch.cat((torch.eye(n, device=device).expand(batch, -1, -1), seen), -1),
            state=torch.cat((step, key, door), 1),
            available=everyone.unsqueeze(-1).expand(-1, -1, len(ACTION_NAMES)),
            alive=everyone,
        )

    def _trained(self, obs: Float[Tensor, "*batch agent obs"], available: Tensor) -> Int[Tensor, "*batch agent"]:
        n = self.num_agents
        takes = (obs[..., self.key_agent] > 0) & (obs[..., n + self.key_step] > 0)
        opens = (obs[..., self.door_agent] > 0) & (obs[..., n + self.door_step] > 0)
        return _TAKE * takes.long() + _OPEN * opens.long()
