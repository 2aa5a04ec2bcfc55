"""The package `rware` (robotic warehouse) as a PettingZoo ParallelEnv: names for the robots, a global state, an honest end.

A warehouse never ends by itself: the package reports its step limit (and its limit of steps without a delivery) as
termination; here both are truncations. A robot sees the cells around it; the global state is, for every robot,
(x, y, carries, one-hot direction), positions scaled to [0, 1], and for every cell whether a shelf stands there and
whether that shelf is requested.
"""

from enum import Enum
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from .errors import UnsupportedTask, did_you_mean

ACTION_NAMES = ("noop", "forward", "left", "right", "toggle")
_OF_ROBOT = 3 + 4


class RWAREParallel(ParallelEnv):
    """One warehouse.

    Args:
        env: `rware.warehouse.Warehouse`.
    """

    def __init__(self, env: Any):
        self.env = env
        self.metadata = {"name": "rware", "render_modes": env.metadata["render_modes"], "is_parallelizable": True}
        self.render_mode = env.render_mode
        self.possible_agents = [f"agent_{i}" for i in range(env.n_agents)]
        self.agents: list[str] = []
        if not isinstance(env.observation_space[0], spaces.Box):
            raise UnsupportedTask("This observation_type gives dictionaries, not arrays.", "Use --env.observation-type flattened.")
        self._obs_spaces = dict(zip(self.possible_agents, env.observation_space, strict=True))
        self._action_spaces = dict(zip(self.possible_agents, env.action_space, strict=True))
        rows, columns = env.grid_size
        self.state_space = spaces.Box(0, 1, (_OF_ROBOT * env.n_agents + 2 * rows * columns,), dtype=np.float32)

    def observation_space(self, agent: str) -> spaces.Space:
        return self._obs_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        obs, _ = self.env.reset(seed=seed)
        self.agents = list(self.possible_agents)
        return dict(zip(self.agents, obs, strict=True)), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        obs, rewards, over, _, _ = self.env.step([actions[agent] for agent in self.agents])
        agents = self.agents
        if over:
            self.agents = []
        return (
            dict(zip(agents, obs, strict=True)),
            {agent: float(reward) for agent, reward in zip(agents, rewards, strict=True)},
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, bool(over)),
            {agent: {} for agent in agents},
        )

    def state(self) -> np.ndarray:
        rows, columns = self.env.grid_size
        of_robots = np.zeros((len(self.env.agents), _OF_ROBOT), dtype=np.float32)
        for row, robot in zip(of_robots, self.env.agents, strict=True):
            row[:3] = robot.x / (columns - 1), robot.y / (rows - 1), robot.carrying_shelf is not None
            row[3 + robot.dir.value] = 1
        of_cells = np.zeros((2, rows, columns), dtype=np.float32)
        for shelf in self.env.shelfs:
            of_cells[0, shelf.y, shelf.x] = 1
        for shelf in self.env.request_queue:
            of_cells[1, shelf.y, shelf.x] = 1
        return np.concatenate([of_robots.reshape(-1), of_cells.reshape(-1)])

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()


def size_options(size: str) -> dict[str, Any]:
    """The warehouse that an id such as "tiny-2ag" or "small-4ag-hard" stands for, as the package registers it."""
    name, robots, *difficulty = size.split("-")
    num_agents = int(robots.removesuffix("ag"))
    shelf_rows, shelf_columns = {"tiny": (1, 3), "small": (2, 3), "medium": (2, 5), "large": (3, 5)}[name]
    requests = {"easy": 2.0, "hard": 0.5}[difficulty[0]] if difficulty else 1.0
    return {
        "shelf_columns": shelf_columns,
        "column_height": 8,
        "shelf_rows": shelf_rows,
        "n_agents": num_agents,
        "msg_bits": 0,
        "sensor_range": 1,
        "request_queue_size": int(num_agents * requests),
        "max_inactivity_steps": None,
        "max_steps": 500,
        "reward_type": "individual",
    }


def choose(option: str, value: Any, choices: type[Enum]) -> Enum:
    """The package's own constant for a word such as "individual"; ValueError with the words there are."""
    if isinstance(value, choices):
        return value
    names = [choice.name.lower() for choice in choices]
    if str(value).lower() not in names:
        hint = did_you_mean(str(value), names)
        raise ValueError(f"--env.{option.replace('_', '-')} {value!r} is not one of {', '.join(names)}.{f' {hint}' if hint else ''}")
    return choices[str(value).upper()]
