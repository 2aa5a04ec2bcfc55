"""A team whose env step takes as long as it is told, for measuring what is around it.

    burning:burn      computes (`milliseconds` of one core's time)          burning:doze      sleeps (no core is needed)

Workers find it by that name where this folder is the working directory or on the path.
"""

import time
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Burning(ParallelEnv):
    """Each of `num_agents` sees `width` numbers and is paid for small actions; an episode has `length` env steps."""

    metadata: ClassVar[dict[str, Any]] = {"name": "burning"}

    def __init__(self, milliseconds: float, *, burns: bool, agents: int, width: int, length: int):
        self.seconds, self.burns, self.length = milliseconds / 1000, burns, length
        self.possible_agents = [f"agent_{i}" for i in range(agents)]
        self.seen_by, self.done_by = Box(-np.inf, np.inf, (width,), np.float32), Discrete(5)

    def observation_space(self, agent: str) -> Box:
        return self.seen_by

    def action_space(self, agent: str) -> Discrete:
        return self.done_by

    def _observe(self) -> dict[str, np.ndarray]:
        return dict(zip(self.agents, self.luck.random((len(self.agents), *self.seen_by.shape), dtype=np.float32), strict=True))

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.agents, self.luck, self.time = list(self.possible_agents), np.random.default_rng(seed), 0
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        if self.burns:
            end = time.thread_time() + self.seconds
            while time.thread_time() < end:
                pass
        else:
            time.sleep(self.seconds)
        self.time += 1
        seen, over, acted = self._observe(), self.time == self.length, self.agents
        self.agents = [] if over else acted
        reward = float(-sum(actions.values()))
        infos = {agent: {} for agent in acted}
        return seen, dict.fromkeys(acted, reward), dict.fromkeys(acted, False), dict.fromkeys(acted, over), infos


def burn(milliseconds: float = 2.0, agents: int = 3, width: int = 18, length: int = 25) -> Burning:
    return Burning(milliseconds, burns=True, agents=agents, width=width, length=length)


def doze(milliseconds: float = 2.0, agents: int = 3, width: int = 18, length: int = 25) -> Burning:
    return Burning(milliseconds, burns=False, agents=agents, width=width, length=length)
