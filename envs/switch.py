"""Switch: two to four agents change sides through a corridor one cell wide, as `Switch2` and `Switch4` of ma_gym.

    b A # # # B a        3 x 7 cells: two rooms of 3 x 2 joined by three corridor cells
    . . . . . . .        A, B, C, D: where agents 0 to 3 start; a, b, c, d: their goals
    d C # # # D c

Per env step the agents move one after another in the order of their numbers, each seeing the moves before its own; a wall
or another agent blocks. An agent that reaches its goal is paid 5 and stays there as an obstacle; until then a step costs it
`step_cost`. The episode is `terminated` when all are home and `truncated` at `episode_limit` (the reference reports both as done).

A finished agent is not alive in the sense of `View`: the reference marks it done, pays it nothing more and ignores what it is
told. So it sees zeros and has action 0 alone (the reference goes on showing it its own cell), and neither mixers nor
credit count steps in which it had no choice. All others have all five actions: walking into a wall is allowed and does nothing.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from .base import TeamSpec, View
from .native import NativeEnv, Outcome
from .randomness import Clock

ACTION_NAMES = ("down", "left", "up", "right", "noop")
ROWS, COLS = 3, 7
STARTS = ((0, 1), (0, 5), (2, 1), (2, 5))
GOALS = ((0, 6), (0, 0), (2, 6), (2, 0))
GOAL_REWARD = 5.0
_NOOP = 4
_SHIFTS = ((1, 0), (0, -1), (-1, 0), (0, 1), (0, 0))

_BEST = {2: (17, 12), 3: (26, 14), 4: (39, 15)}
"""num_agents -> (fewest steps, summed over agents, that do not reach a goal; env steps that takes), from a search over all positions."""


def is_free(row: int, col: int) -> bool:
    """Whether a cell is on the board and no wall."""
    return 0 <= row < ROWS and 0 <= col < COLS and (row == 1 or col in (0, 1, 5, 6))


def _neighbours() -> Int[Tensor, "cell action"]:
    """Where each action leads from each cell (row * COLS + col); back to the cell itself where a wall is."""
    table = []
    for row in range(ROWS):
        for col in range(COLS):
            targets = [(row + down, col + right) for down, right in _SHIFTS]
            table.append([r * COLS + c if is_free(r, c) else row * COLS + col for r, c in targets])
    return torch.tensor(table)


@dataclass(frozen=True)
class SwitchTask:
    """One moment."""

    cell: Int[Tensor, "env agent"]
    """Where each agent stands, row * COLS + col."""
    elapsed: Int[Tensor, " env"]
    """Env steps taken in this episode."""


class Switch(NativeEnv[SwitchTask]):
    """B copies of the corridor.

    An agent observes its own row / 2 and col / 6, rounded to two decimals. ma_gym's four versions are v0: neither `full_obs`
    nor `clock`; v1: `full_obs`; v2: `clock`; v3: both. The state is what v1 (with `clock`: v3) shows, with finished agents in it.

    Args:
        num_agents: 2, 3 or 4.
        clock: also observe the share of `episode_limit` that has passed.
        full_obs: observe what all agents observe, in their order.
        step_cost: what a step costs each agent that has not reached its goal.
        episode_limit: env steps until truncation.
        team_reward: "sum" or "mean" of the agents' rewards.
    """

    def __init__(
        self,
        num_agents: int = 2,
        *,
        clock: bool = False,
        full_obs: bool = False,
        step_cost: float = 0.1,
        episode_limit: int = 50,
        team_reward: str = "sum",
    ):
        if not 2 <= num_agents <= len(STARTS):
            raise ValueError(f"num_agents is {num_agents}; switch has places for 2, 3 or 4 agents")
        if step_cost < 0:
            raise ValueError(f"step_cost is {step_cost}; write what a step costs as a number >= 0 (ma_gym's step_cost=-0.1 is 0.1 here)")
        if episode_limit < 1:
            raise ValueError(f"episode_limit is {episode_limit}; an episode has at least 1 env step")
        if team_reward not in ("sum", "mean"):
            raise ValueError(f"team_reward is {team_reward!r}; choose 'sum' or 'mean' of the agents' rewards")
        self.num_agents, self.clock, self.full_obs = num_agents, clock, full_obs
        self.step_cost, self.episode_limit = step_cost, episode_limit
        self._neighbours = _neighbours()
        self._start = torch.tensor([row * COLS + col for row, col in STARTS[:num_agents]])
        self._goal = torch.tensor([row * COLS + col for row, col in GOALS[:num_agents]])
        self._seen = torch.tensor([[round(row / (ROWS - 1), 2), round(col / (COLS - 1), 2)] for row in range(ROWS) for col in range(COLS)])
        self._only_first = torch.arange(len(ACTION_NAMES)) == 0
        features = ("row", "col", "time") if clock else ("row", "col")
        everyone = tuple(f"agent_{i}_{feature}" for i in range(num_agents) for feature in features)
        self.spec = TeamSpec(
            name=f"switch{num_agents}",
            agents=tuple(f"agent_{i}" for i in range(num_agents)),
            num_actions=len(ACTION_NAMES),
            obs_dim=len(everyone) if full_obs else len(features),
            state_dim=len(everyone),
            episode_limit=episode_limit,
            truncates_at_limit=True,
            action_names=(ACTION_NAMES,) * num_agents,
            obs_names=(everyone if full_obs else features,) * num_agents,
            noop=(_NOOP,) * num_agents,
            return_range=self._return_range(team_reward),
            team_reward=team_reward,
        )

    def _return_range(self, team_reward: str) -> tuple[float, float]:
        """Nobody ever arrives; all arrive in the fewest steps (where the limit is shorter than those take: a bound, nobody waits)."""
        n = self.num_agents
        unpaid, needed = _BEST[n]
        if self.episode_limit < needed:
            unpaid = n * min(self.episode_limit, 6)  # 7 moves lead from each start to its goal, the last one is paid
        lowest, highest = -self.step_cost * n * self.episode_limit, GOAL_REWARD * n - self.step_cost * unpaid
        if self.episode_limit < 7:
            highest = lowest
        return (lowest, highest) if team_reward == "sum" else (lowest / n, highest / n)

    def begin(self, clock: Clock) -> SwitchTask:
        start = self._start.to(clock.seed.device)
        return SwitchTask(cell=start.repeat(len(clock.seed), 1), elapsed=torch.zeros_like(clock.seed))

    def advance(self, task: SwitchTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[SwitchTask, Outcome]:
        goal = self._goal.to(action.device)
        was_home = task.cell == goal
        target = self._neighbours.to(action.device)[task.cell, torch.where(was_home, _NOOP, action)]
        cell = task.cell.clone()
        for agent in range(self.num_agents):
            ahead = target[:, agent]
            # An agent that stays is blocked by itself, which is the same.
            blocked = (cell == ahead.unsqueeze(1)).any(1)
            cell[:, agent] = torch.where(blocked, cell[:, agent], ahead)
        is_home = cell == goal
        arrived = is_home & ~was_home
        agent_reward = GOAL_REWARD * arrived.double() - self.step_cost * (~is_home).double()
        team = agent_reward.sum(1) if self.spec.team_reward == "sum" else agent_reward.mean(1)
        terminated = is_home.all(1)
        outcome = Outcome(
            reward=team.float(),
            agent_reward=agent_reward.float(),
            terminated=terminated,
            truncated=(clock.step + 1 >= self.episode_limit) & ~terminated,
        )
        return SwitchTask(cell=cell, elapsed=task.elapsed + 1), outcome

    def observe(self, task: SwitchTask) -> View:
        device = task.cell.device
        alive = task.cell != self._goal.to(device)
        seen = self._seen.to(device)[task.cell]
        if self.clock:
            time = (task.elapsed.double() / self.episode_limit).float()
            seen = torch.cat((seen, time.view(-1, 1, 1).expand(-1, self.num_agents, 1)), -1)
        state = seen.flatten(1)
        shown = state.unsqueeze(1).expand(-1, self.num_agents, -1) if self.full_obs else seen
        return View(
            obs=shown * alive.unsqueeze(-1),
            state=state,
            available=alive.unsqueeze(-1) | self._only_first.to(device),
            alive=alive,
        )
