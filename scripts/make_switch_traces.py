"""Golden episodes of switch, from its rules in plain Python: lists and loops, one agent after another, no tensors.

    python scripts/make_switch_traces.py        writes tests/golden/switch2.json and switch4.json

ma_gym's package no longer installs beside current Gymnasium, so its rules (`switch_one_corridor.py` of version 0.0.14) are spelled out
here a second time, apart from envs/switch.py; tests/parity/test_switch_parity.py holds the tensors against both the files and `Corridor`.
"""

import json
import random
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
MAP = ["..###..", ".......", "..###.."]
STARTS = [[0, 1], [0, 5], [2, 1], [2, 5]]
GOALS = [[0, 6], [0, 0], [2, 6], [2, 0]]
MOVES = {0: (1, 0), 1: (0, -1), 2: (-1, 0), 3: (0, 1), 4: (0, 0)}
LIMIT = 50

# The quickest way for two agents: agent 0 goes straight, agent 1 waits for it in its own corner.
BEST = [[0, 3, 3, 3, 3, 3, 2], [4, 4, 4, 4, 4, 0, 1, 1, 1, 1, 1, 2]]


class Corridor:
    """One episode. `step` returns (rewards, which agents are home, everybody home, time over)."""

    def __init__(self, num_agents: int):
        self.where = [list(cell) for cell in STARTS[:num_agents]]
        self.home = [False] * num_agents
        self.time = 0

    def vacant(self, row: int, col: int) -> bool:
        if row < 0 or row > 2 or col < 0 or col > 6 or MAP[row][col] == "#":
            return False
        return [row, col] not in self.where

    def step(self, actions: list[int]) -> tuple[list[float], list[bool], bool, bool]:
        self.time += 1
        rewards = [-0.1] * len(self.where)
        for agent, action in enumerate(actions):
            if self.home[agent]:
                rewards[agent] = 0.0
                continue
            row, col = self.where[agent][0] + MOVES[action][0], self.where[agent][1] + MOVES[action][1]
            if self.vacant(row, col):
                self.where[agent] = [row, col]
            if self.where[agent] == GOALS[agent]:
                self.home[agent] = True
                rewards[agent] = 5.0
        return rewards, list(self.home), all(self.home), self.time >= LIMIT

    def observe(self, clock: bool) -> list[list[float]]:
        """What each agent is shown of itself."""
        return [[round(row / 2, 2), round(col / 6, 2)] + ([self.time / LIMIT] if clock else []) for row, col in self.where]


class Wanderer:
    """Random play that gets somewhere: from a time of its own on, an agent mostly walks towards its goal; before, it mostly waits."""

    def __init__(self, num_agents: int, rng: random.Random):
        self.rng = rng
        self.sets_out = [rng.choice([0, 0, 8, 16, 24]) for _ in range(num_agents)]

    def act(self, corridor: Corridor) -> list[int]:
        return [self.act_for(agent, corridor) for agent in range(len(corridor.where))]

    def act_for(self, agent: int, corridor: Corridor) -> int:
        (row, col), goal = corridor.where[agent], GOALS[agent]
        if self.rng.random() < 0.15:
            return self.rng.randrange(5)
        if corridor.time < self.sets_out[agent]:
            return 4
        through = col >= 5 if goal[1] == 6 else col <= 1
        if through and row != goal[0]:
            return 0 if goal[0] > row else 2
        if not through and row != 1:
            return 0 if row < 1 else 2
        return 3 if goal[1] > col else 1


def record(num_agents: int, actions_of) -> dict:
    """One episode as JSON; `actions_of(corridor)` gives the joint action."""
    corridor, steps = Corridor(num_agents), []
    over = False
    while not over:
        actions = actions_of(corridor)
        rewards, home, ended, late = corridor.step(actions)
        steps.append({"actions": actions, "where": [list(cell) for cell in corridor.where], "rewards": rewards, "home": home})
        over = ended or late
    return {"steps": steps, "terminated": ended, "truncated": late and not ended}


def main() -> None:
    best = record(2, lambda corridor: [plan[corridor.time] if corridor.time < len(plan) else 4 for plan in BEST])
    for num_agents in (2, 4):
        episodes = [record(num_agents, Wanderer(num_agents, random.Random(seed)).act) for seed in range(400)]
        episodes.sort(key=lambda episode: -sum(episode["steps"][-1]["home"]))  # the most successful ones, and the first that failed
        chosen = ([best] if num_agents == 2 else []) + [*episodes[:3], next(e for e in episodes if e["truncated"])]
        path = GOLDEN / f"switch{num_agents}.json"
        path.write_text(json.dumps({"num_agents": num_agents, "episodes": chosen}, separators=(",", ":")) + "\n")
        print(f"{path.name}: {[len(e['steps']) for e in chosen]} steps, home at the end: {[sum(e['steps'][-1]['home']) for e in chosen]}")


if __name__ == "__main__":
    main()
