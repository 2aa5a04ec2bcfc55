"""Predator-prey with a price on catching alone: the `pred_prey_punish` task of weighted QMIX (arXiv:2006.10800).

Predators and prey live on a bounded grid, one to a cell. Per env step:

1. The predators move one after another in random order; a cell that anyone holds blocks. "catch" stays where it is.
2. Each prey in random order counts the predators beside it (straight, not diagonally) that play catch:
   two or more: it is caught, the team gets `capture_reward`, and all of these predators freeze and leave the board;
   one: the team pays `penalty` and the prey moves on; none: it moves on. A prey moves to a free neighbour cell, each
   equally likely, and stays where there is none.

A predator may count for several prey in one step, but freezes with the first that is caught. The episode is `terminated` when
all prey are caught or all predators frozen, and `truncated` at `episode_limit`. There is one team reward and no reward of an
agent's own. Since a lone catch costs and the partner may not come, utilities that average over exploring partners learn never
to catch (relative overgeneralisation): the task that separates mixers.

Frozen predators are not alive: they see zeros, as in the reference, and have action 0 alone, which does nothing (the
reference gives them "stay" alone; `View` wants action 0).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .base import TeamSpec, View
from .native import NativeEnv, Outcome
from .predator_prey_board import (
    Board,
    Chance,
    any_of,
    by_mover,
    by_turn,
    catch_prey,
    draw_cells,
    draw_chance,
    look_up,
    move_in_turn,
)
from .randomness import RESET, TASK, Clock

ACTION_NAMES = ("right", "down", "left", "up", "stay", "catch")
_STAY, CATCH = 4, 5
_FEATURES = ("predator", "prey", "hare")
"""Of each observed cell. There are no hares in this task; their zeros are kept so that observations are the reference's."""


@dataclass(frozen=True)
class PredatorPreyTask:
    """One moment. Cells are coded as in predator_prey_board.py."""

    predators: Int[Tensor, "env predator"]
    """Where each predator is, or was when it froze."""
    frozen: Bool[Tensor, "env predator"]
    prey: Int[Tensor, "env prey"]
    """Where each prey is, or was when it was caught."""
    caught: Bool[Tensor, "env prey"]


class PredatorPrey(NativeEnv[PredatorPreyTask]):
    """B copies of the hunt.

    A predator observes the (2 sight + 1)^2 cells around it, row by row, each as (predator there, prey there, 0): itself is
    in the middle, what is off the board is empty. The state is the whole board in the same form.

    Args:
        rows, cols: size of the board.
        num_predators, num_prey: how many of each; a capture needs two predators.
        penalty: what the team pays for each prey that one predator alone tries to catch (the reference's
            `miscapture_punishment: -2` is 2 here).
        capture_reward: what the team gets for each prey caught.
        sight: how many cells far predators see.
        episode_limit: env steps until truncation.
    """

    def __init__(
        self,
        rows: int = 10,
        cols: int = 10,
        num_predators: int = 8,
        num_prey: int = 8,
        *,
        penalty: float = 2.0,
        capture_reward: float = 10.0,
        sight: int = 2,
        episode_limit: int = 200,
    ):
        if rows < 2 or cols < 2:
            raise ValueError(f"a board of {rows}x{cols} is too narrow; take at least 2x2")
        if num_predators < 2:
            raise ValueError(f"num_predators is {num_predators}; a capture needs two of them beside a prey, so take at least 2")
        if num_prey < 1:
            raise ValueError(f"num_prey is {num_prey}; there is nothing to catch without at least 1 prey")
        if num_predators + num_prey > rows * cols:
            raise ValueError(
                f"{num_predators} predators and {num_prey} prey do not fit {rows}x{cols} cells, one to a cell; "
                f"take at most {rows * cols} together or a larger board"
            )
        if penalty < 0:
            raise ValueError(f"penalty is {penalty}; write what a lone catch costs as a number >= 0 (miscapture_punishment: -2 is 2)")
        if capture_reward < 0:
            raise ValueError(f"capture_reward is {capture_reward}; it is a number >= 0")
        if sight < 1:
            raise ValueError(f"sight is {sight}; a predator sees at least 1 cell far")
        if episode_limit < 1:
            raise ValueError(f"episode_limit is {episode_limit}; an episode has at least 1 env step")
        self.num_predators, self.num_prey = num_predators, num_prey
        self.penalty, self.capture_reward, self.episode_limit = float(penalty), float(capture_reward), episode_limit
        self.board = Board(rows, cols, sight)
        self.sight = sight
        self._window, self._offset = self._make_window()
        self._only_first = torch.arange(len(ACTION_NAMES)) == 0
        self.spec = self._make_spec()

    def _make_spec(self) -> TeamSpec:
        board, reach, n = self.board, range(-self.sight, self.sight + 1), self.num_predators
        names = tuple(f"{what} {_where(down, right)}" for down in reach for right in reach for what in _FEATURES)
        size = "" if (board.rows, board.cols, n, self.num_prey) == (10, 10, 8, 8) else f"-{board.rows}x{board.cols}-{n}v{self.num_prey}"
        return TeamSpec(
            name=f"predator-prey{size}",
            agents=tuple(f"predator_{i}" for i in range(n)),
            num_actions=len(ACTION_NAMES),
            obs_dim=len(names),
            state_dim=board.rows * board.cols * len(_FEATURES),
            episode_limit=self.episode_limit,
            truncates_at_limit=True,
            action_names=(ACTION_NAMES,) * n,
            obs_names=(names,) * n,
            noop=(_STAY,) * n,
            # Two predators at least go with every prey; the lowest is a bound: every prey is tried by one alone in every step.
            return_range=(-self.penalty * self.num_prey * self.episode_limit, self.capture_reward * min(self.num_prey, n // 2)),
            team_reward="shared",
        )

    def _make_window(self) -> tuple[Int[Tensor, " entry"], Int[Tensor, " creature"]]:
        """A table from the difference of two cells' codes to the feature that shows the other; the offsets that index it.

        Predators read its first half, prey its second. What is out of sight leads to the middle, where the observer is anyway.
        """
        side, far = 2 * self.sight + 1, self.board.codes
        entries = 3 * far + 1  # differences from -far to 2 far, for `absent` is 2 far
        middle = (side * self.sight + self.sight) * len(_FEATURES)
        table = torch.full((2, entries), middle)
        for down in range(-self.sight, self.sight + 1):
            for right in range(-self.sight, self.sight + 1):
                at = down * self.board.stride + right + far
                place = ((down + self.sight) * side + right + self.sight) * len(_FEATURES)
                if abs(down) < self.board.rows and abs(right) < self.board.cols:  # sight may reach beyond the board
                    table[0, at], table[1, at] = place, place + 1
        return table.flatten(), torch.tensor([far] * self.num_predators + [entries + far] * self.num_prey)

    def begin(self, clock: Clock) -> PredatorPreyTask:
        """All on different cells, each arrangement equally likely."""
        n, m = self.num_predators, self.num_prey
        cells = self.board.cells.to(clock.seed.device)
        places = look_up(cells, draw_cells(clock.key(RESET), n + m, len(cells)))
        return self.place(places[:, :n].contiguous(), places[:, n:].contiguous())

    def place(self, predators: Int[Tensor, "env predator"], prey: Int[Tensor, "env prey"]) -> PredatorPreyTask:
        """The first moment of an episode that starts with everybody on these cells (codes of `board.cells`)."""
        frozen, caught = (torch.zeros_like(who, dtype=torch.bool) for who in (predators, prey))
        return PredatorPreyTask(predators=predators, frozen=frozen, prey=prey, caught=caught)

    def advance(self, task: PredatorPreyTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[PredatorPreyTask, Outcome]:
        chance = draw_chance(clock.key(TASK), self.num_predators, self.num_prey)
        after, reward = self.play(task, action, chance)
        terminated = after.caught.all(1) | after.frozen.all(1)
        truncated = (clock.step + 1 >= self.episode_limit) & ~terminated
        return after, Outcome(reward=reward, agent_reward=None, terminated=terminated, truncated=truncated)

    def play(
        self, task: PredatorPreyTask, action: Int[Tensor, "env agent"], chance: Chance
    ) -> tuple[PredatorPreyTask, Float[Tensor, " env"]]:
        """One joint action under given chance: the next moment and the team reward. No action of a frozen predator does anything."""
        board, hunts, flees = self.board, chance.predator_order, chance.prey_order
        ahead = look_up(board.target.to(action.device), action * board.codes + task.predators).masked_fill(task.frozen, board.absent)
        standing = by_turn(task.predators.masked_fill(task.frozen, board.absent), hunts)
        cell, gone = by_turn(task.prey, flees), by_turn(task.caught, flees)
        prey = cell.masked_fill(gone, board.absent)
        predators = move_in_turn(torch.cat((standing, prey)), by_turn(ahead, hunts).unsqueeze(0), standing)

        apart = (prey.unsqueeze(1) - predators).abs()
        beside = (apart == 1) | (apart == board.stride)
        count, free, free_after = catch_prey(beside & by_turn(action == CATCH, hunts))
        caught = count >= 2
        reward = self.capture_reward * caught.sum(0) - self.penalty * (count == 1).sum(0)

        off = gone | caught
        stay = cell.masked_fill(off, board.absent)
        tried = board.along(by_turn(chance.heading, flees), cell)
        hunted = torch.where(free, predators, board.absent)
        blocked = any_of(tried.unsqueeze(2) == hunted, 2) | off
        fled = move_in_turn(prey, torch.where(blocked, stay, tried), stay)

        moved, thawed = by_mover(predators, hunts), by_mover(free_after, hunts)
        after = PredatorPreyTask(
            predators=torch.where(task.frozen, task.predators, moved),
            frozen=task.frozen | ~thawed,
            prey=by_mover(torch.where(off, cell, fled), flees),
            caught=by_mover(off, flees),
        )
        return after, reward.float()

    def observe(self, task: PredatorPreyTask) -> View:
        batch, n, board = len(task.predators), self.num_predators, self.board
        device, alive = task.predators.device, ~task.frozen
        off = torch.cat((task.frozen, task.caught), 1)
        everyone = torch.cat((task.predators, task.prey), 1).masked_fill(off, board.absent)
        apart = everyone.unsqueeze(1) - task.predators.unsqueeze(2)
        shown_at = look_up(self._window.to(device), apart + self._offset.to(device))
        obs = torch.zeros(batch, n, self.spec.obs_dim, device=device)
        obs.scatter_(2, shown_at, alive.unsqueeze(-1).float().expand_as(shown_at))

        apart = apart[..., n:].abs()
        beside = any_of((apart == 1) | (apart == board.stride), -1).unsqueeze(-1)
        may = torch.cat((board.inside.to(device)[task.predators], torch.ones_like(beside), beside), -1)
        available = torch.where(alive.unsqueeze(-1), may, self._only_first.to(device))
        return View(obs=obs, state=self._state(everyone, off), available=available, alive=alive)

    def _state(self, everyone: Int[Tensor, "env creature"], off: Bool[Tensor, "env creature"]) -> Float[Tensor, "env state"]:
        """The board, cell by cell, as `_FEATURES`."""
        row, col = self.board.split(everyone)
        kind = torch.arange(everyone.shape[1], device=everyone.device) >= self.num_predators
        at = ((row * self.board.cols + col) * len(_FEATURES) + kind).masked_fill(off, 0)
        state = torch.zeros(len(everyone), self.spec.state_dim, device=everyone.device)
        return state.scatter_add_(1, at, (~off).float())


def _where(down: int, right: int) -> str:
    """A cell in sight, in words: "here", "2 up", "1 down 2 left"."""
    rows = f"{abs(down)} {'down' if down > 0 else 'up'}" if down else ""
    cols = f"{abs(right)} {'right' if right > 0 else 'left'}" if right else ""
    return f"{rows} {cols}".strip() or "here"
