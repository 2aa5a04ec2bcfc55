"""Any TeamEnv as a PettingZoo ParallelEnv: one copy, agents by name, numpy arrays.

Observations are plain Box arrays (padded as in the TeamEnv); the action mask is `infos[agent]["action_mask"]` (int8),
at reset and at every step. An action that is not available is taken as the agent's no-op, or as its first available
action where it has no no-op: PettingZoo's own tests sample without looking at masks kept in infos.
"""

from typing import Any, cast

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from pettingzoo import ParallelEnv
from torch import Tensor

from .base import Step, TeamEnv, View
from .randomness import mix_seed


class TeamParallelEnv(ParallelEnv[str, np.ndarray, int | np.integer]):
    """One copy of a `TeamEnv`. Rewards are the agents' own where the task has them, else the team reward for each.

    `reset(seed)` starts the copy of that seed; `reset()` goes on to the next episode of the last seed given
    (of `seed`, the constructor's, at first), so a program that never seeds is still repeatable.
    """

    def __init__(self, team_env: TeamEnv, *, seed: int = 0, max_cycles: int | None = None):
        spec = team_env.spec
        self.team_env = team_env
        self.metadata = {"name": spec.name, "render_modes": [], "is_parallelizable": True}
        self.render_mode = None
        self.possible_agents = list(spec.agents)
        self.agents: list[str] = []
        self.max_cycles = max_cycles
        self._seed, self._episode, self._steps = seed, 0, 0
        low, high = (0, 255) if spec.obs_dtype == torch.uint8 else (-np.inf, np.inf)
        dtype = np.dtype(str(spec.obs_dtype).removeprefix("torch."))
        sizes = [len(names) for names in spec.action_names] or [spec.num_actions] * spec.num_agents
        self.observation_spaces = {agent: Box(low, high, (spec.obs_dim,), dtype.type) for agent in spec.agents}
        self._num_actions = dict(zip(spec.agents, sizes, strict=True))
        self.action_spaces = {agent: cast(Space, Discrete(size)) for agent, size in self._num_actions.items()}
        self.state_space = Box(-np.inf, np.inf, (spec.state_dim,), np.float32)
        self._state: Any = None
        self._view: View | None = None

    def observation_space(self, agent: str) -> Space:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
        if seed is None:
            self._episode += 1
        else:
            self._seed, self._episode = seed, 0
        self._state, self._view = self.team_env.reset(torch.tensor([mix_seed(self._seed, self._episode)]))
        self._steps = 0
        self.agents = [agent for i, agent in enumerate(self.possible_agents) if self._view.alive[0, i]]
        return self._observations(self._view), self._infos(self._view)

    def step(
        self, actions: dict[str, int | np.integer]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict]]:
        if self._view is None:
            raise ValueError("step was called before reset; call reset() first")
        if not self.agents:
            return {}, {}, {}, {}, {}
        acting = list(self.agents)
        self._state, step, _ = self.team_env.step(self._state, self._joint_action(actions), autoreset=False)
        self._view, self._steps = step.after, self._steps + 1
        ended = bool(step.terminated[0] or step.truncated[0])
        cut = bool(step.truncated[0]) or (not ended and self.max_cycles is not None and self._steps >= self.max_cycles)
        gone = {agent: not bool(step.after.alive[0, self.possible_agents.index(agent)]) for agent in acting}
        terminations = {agent: bool(step.terminated[0]) or gone[agent] for agent in acting}
        truncations = {agent: cut and not terminations[agent] for agent in acting}
        result = self._observations(step.after), self._rewards(step), terminations, truncations, self._infos(step.after)
        self.agents = [agent for agent in acting if not terminations[agent] and not truncations[agent]]
        return result

    def state(self) -> np.ndarray:
        """The global state of the current moment (also after the last step)."""
        if self._view is None:
            raise ValueError("state was asked for before reset; call reset() first")
        return self._view.state[0].numpy().astype(np.float32)

    def render(self) -> None:
        return None

    def close(self) -> None:
        self.team_env.close()

    def _joint_action(self, actions: dict[str, int | np.integer]) -> Tensor:
        """(1, agent): what was asked where it is available, else the no-op or the first available action."""
        missing = [agent for agent in self.agents if agent not in actions]
        if missing:
            raise ValueError(f"no action for {', '.join(missing)}; give one for each of {', '.join(self.agents)}")
        available = cast(View, self._view).available[0]
        noop = self.team_env.spec.noop or (None,) * len(self.possible_agents)
        chosen = []
        for i, agent in enumerate(self.possible_agents):
            wanted, idle = int(actions[agent]) if agent in self.agents else -1, noop[i]
            if 0 <= wanted < available.shape[-1] and available[i, wanted]:
                chosen.append(wanted)
            elif idle is not None and available[i, idle]:
                chosen.append(idle)
            else:
                chosen.append(int(available[i].to(torch.uint8).argmax()))
        return torch.tensor([chosen])

    def _observations(self, view: View) -> dict[str, np.ndarray]:
        return {agent: view.obs[0, self.possible_agents.index(agent)].numpy().copy() for agent in self.agents}

    def _infos(self, view: View) -> dict[str, dict]:
        """The mask of each agent, as long as its action space."""
        rows = {agent: view.available[0, self.possible_agents.index(agent)] for agent in self.agents}
        return {agent: {"action_mask": row.numpy().astype(np.int8)[: self._num_actions[agent]]} for agent, row in rows.items()}

    def _rewards(self, step: Step) -> dict[str, float]:
        shared = step.reward[:, None].expand(-1, len(self.possible_agents))
        own = shared if step.agent_reward is None else step.agent_reward
        return {agent: float(own[0, self.possible_agents.index(agent)]) for agent in self.agents}


def to_parallel_env(team_env: TeamEnv, *, seed: int = 0, max_cycles: int | None = None) -> TeamParallelEnv:
    """One copy of a `TeamEnv` as a PettingZoo ParallelEnv (see the module's text for masks and unavailable actions).

    Args:
        team_env: any TeamEnv.
        seed: of the episodes before the first `reset(seed=...)`.
        max_cycles: truncate earlier than the task does, after so many env steps.
    """
    return TeamParallelEnv(team_env, seed=seed, max_cycles=max_cycles)
