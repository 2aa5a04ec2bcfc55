"""The package `lbforaging` as a PettingZoo ParallelEnv: names for the players, action masks, an honest end.

The package reports its time limit as termination; here an episode is terminated only when no food is left, and
truncated at the limit. It also remembers where the players stood, which moves the next episode's first draws; that is
cleared, so that an episode depends on its seed alone.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv

from .foraging import relative_coordinates

ACTION_NAMES = ("none", "north", "south", "west", "east", "load")


class LBFParallel(ParallelEnv):
    """One foraging board.

    Args:
        env: `lbforaging.foraging.environment.ForagingEnv`.
        relative_obs: append (row, col) of every food and other player as seen from the observing player.
    """

    def __init__(self, env: Any, *, relative_obs: bool = False):
        self.env = env
        self.metadata = {"name": "lbf", "render_modes": env.metadata["render_modes"], "is_parallelizable": True}
        self.render_mode = env.render_mode
        self.possible_agents = [f"agent_{i}" for i in range(len(env.players))]
        self.agents: list[str] = []
        self.relative_obs = relative_obs
        box = env.observation_space[0]
        if relative_obs:
            reach = max(env.field_size) * np.ones(2 * (env.max_num_food + len(env.players) - 1), dtype=np.float32)
            box = spaces.Box(np.concatenate([box.low, -reach]), np.concatenate([box.high, reach]), dtype=np.float32)
        self._obs_spaces = dict.fromkeys(self.possible_agents, box)
        self._action_spaces = dict(zip(self.possible_agents, env.action_space.spaces, strict=True))

    def observation_space(self, agent: str) -> spaces.Space:
        return self._obs_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        for player in self.env.players:
            player.position = None
        obs, _ = self.env.reset(seed=seed)
        self.agents = list(self.possible_agents)
        return self._observations(obs), self._infos()

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        obs, rewards, over, _, _ = self.env.step([actions[agent] for agent in self.agents])
        cleared = bool(self.env.field.sum() == 0)
        agents = self.agents
        if over:
            self.agents = []
        return (
            self._observations(obs),
            {agent: float(reward) for agent, reward in zip(agents, rewards, strict=True)},
            dict.fromkeys(agents, bool(over) and cleared),
            dict.fromkeys(agents, bool(over) and not cleared),
            self._infos(),
        )

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _observations(self, obs: Any) -> dict[str, np.ndarray]:
        if self.relative_obs:
            seen = np.stack(obs)
            away = relative_coordinates(torch.from_numpy(seen), self.env.max_num_food, len(self.env.players))
            obs = tuple(np.concatenate([seen, away.numpy()], axis=1))
        return dict(zip(self.possible_agents, obs, strict=True))

    def _infos(self) -> dict[str, dict]:
        """Action masks from the package's own list of valid actions."""
        infos = {}
        for agent, player in zip(self.possible_agents, self.env.players, strict=True):
            mask = np.zeros(len(ACTION_NAMES), dtype=np.int8)
            mask[[action.value for action in self.env._valid_actions[player]]] = 1
            infos[agent] = {"action_mask": mask}
        return infos
