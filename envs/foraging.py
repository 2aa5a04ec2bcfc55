"""Level-based foraging: players of different levels load foods that some can lift only together, as lbforaging 2.0.0.

Per step, all at once: invalid actions become noop; players whose target cells coincide all stay, the others move
(so swaps happen, and a player may enter the cell of one whose own move failed); then for every food the players that
load beside it lift it if their levels add up:

    sum_j level_j >= food:   r_i = level_i food / (sum_j level_j  total food level at the start),   else   r_i = -penalty

so a cleared board has paid the team 1. Validity is judged before the step and players do not block: a move needs a cell
inside the board without food, load needs a food beside. An emptied board is `terminated`; the step limit with food
left is `truncated` (the reference reports both as terminated). No food lies on the border, beside another or two
straight cells from one, hence a player is beside at most one food.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .base import TeamSpec, View
from .foraging_board import Cells, compact, lowest_sum, spawn_food, spawn_players
from .foraging_members import saboteur, shadow
from .foraging_policy import greedy_forager
from .native import NativeEnv, Outcome
from .randomness import RESET, Clock, split, uniform
from .tracing import in_one_graph

ACTION_NAMES = ("noop", "north", "south", "west", "east", "load")
_LOAD = 5
_SHIFT = torch.tensor([[0, 0, 0], [-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, 0]])  # of (row, col, level)


@dataclass(frozen=True)
class ForagingTask:
    """One moment of the board."""

    foods: Int[Tensor, "env food 3"]
    """(row, col, level) of what is left, in row-major order; then (-1, -1, 0)."""
    players: Int[Tensor, "env player 3"]
    """(row, col, level)."""
    food_spawned: Int[Tensor, " env"]
    """Sum of the food levels at the start of the episode: the unit of reward."""
    available: Bool[Tensor, "env player 6"]
    """What each player may do now (a function of the above, kept because the step that made it knows it already)."""


def parse_size(size: str) -> dict[str, int | float | bool | None]:
    """Keyword arguments of `Foraging` from the reference's id form, "8x8-2p-3f" or "2s-8x8-2p-2f-coop".

    Parts: `2s-` players see 2 cells far; `8x8` rows x cols; `2p` players; `3f` foods; `-coop` every food needs the
    three weakest players' levels together; `-ind` foods of level 1; `-pen` a failed load costs 0.1. "Foraging-" before
    and "-v3" after are allowed.
    """
    form = r"(?:Foraging-)?(?:(\d+)s-)?(\d+)x(\d+)-(\d+)p-(\d+)f(-coop)?(-ind)?(-pen)?(?:-v3)?"
    match = re.fullmatch(form, size)
    if match is None:
        raise ValueError(
            f"{size!r} is no foraging size; write [<sight>s-]<rows>x<cols>-<players>p-<foods>f[-coop][-ind][-pen], "
            "for example '8x8-2p-3f' or '2s-8x8-2p-2f-coop'"
        )
    sight, rows, cols, players, foods, coop, single, penalty = match.groups()
    return {
        "rows": int(rows),
        "cols": int(cols),
        "num_players": int(players),
        "num_food": int(foods),
        "sight": None if sight is None else int(sight),
        "force_coop": coop is not None,
        "max_food_level": None if single is None else 1,
        "penalty": 0.0 if penalty is None else 0.1,
    }


def relative_coordinates(obs: Float[Tensor, "*batch obs"], num_food: int, num_players: int) -> Float[Tensor, "*batch relative"]:
    """(row, col) of every food and every other player as seen from the observing player; (0, 0) for missing ones.

    `obs` starts with (row, col, level) of the foods, of oneself and of the other players; what follows is ignored.
    """
    items = obs[..., : 3 * (num_food + num_players)].unflatten(-1, (num_food + num_players, 3))
    own = items[..., num_food, None, :2]
    others = torch.cat((items[..., :num_food, :], items[..., num_food + 1 :, :]), -2)
    return torch.where(others[..., 2:] > 0, others[..., :2] - own, 0.0).flatten(-2)


class Foraging(NativeEnv[ForagingTask]):
    """B copies of a foraging board.

    Args:
        rows, cols: size of the board.
        num_players, num_food: how many of each.
        max_player_level, min_player_level: players' levels are uniform between them.
        player_levels: one fixed level per player instead (lbforaging deals its players' levels out anew every episode).
        max_food_level: foods' levels are uniform from 1 to it; None: the sum of the three lowest player levels.
        sight: how many cells far players see; None: the whole board.
        force_coop: every food has the highest level.
        penalty: what a failed load costs each of its players.
        normalize_reward: pay shares of the whole board (else level times food level, undivided).
        episode_limit: env steps until truncation.
        relative_obs: append `relative_coordinates` to every observation.
    """

    def __init__(
        self,
        rows: int = 8,
        cols: int = 8,
        num_players: int = 2,
        num_food: int = 3,
        *,
        max_player_level: int = 2,
        min_player_level: int = 1,
        player_levels: Sequence[int] | None = None,
        max_food_level: int | None = None,
        sight: int | None = None,
        force_coop: bool = False,
        penalty: float = 0.0,
        normalize_reward: bool = True,
        episode_limit: int = 50,
        relative_obs: bool = False,
    ):
        if rows < 3 or cols < 3:
            raise ValueError(f"a board of {rows}x{cols} has no inner cell for food; take at least 3x3")
        if num_players < 1 or num_food < 1:
            raise ValueError(f"{num_players} players and {num_food} foods: at least one of each is needed")
        if num_players + num_food > rows * cols // 2:
            raise ValueError(
                f"{num_players} players and {num_food} foods are too many for {rows}x{cols} cells; at most half of them are taken"
            )
        if not 1 <= min_player_level <= max_player_level:
            raise ValueError(f"player levels {min_player_level} to {max_player_level}: need 1 <= min_player_level <= max_player_level")
        levels = () if player_levels is None else _checked_levels(player_levels, num_players)
        if max_food_level is not None and max_food_level < 1:
            raise ValueError(f"max_food_level is {max_food_level}; food levels start at 1 (None: from the players' levels)")
        if sight is not None and sight < 1:
            raise ValueError(f"sight is {sight}; it is at least 1 cell (None: the whole board)")
        if penalty < 0:
            raise ValueError(f"penalty is {penalty}; write what a failed load costs as a number >= 0")
        if episode_limit < 1:
            raise ValueError(f"episode_limit is {episode_limit}; an episode has at least 1 env step")
        self.rows, self.cols = rows, cols
        self.num_players, self.num_food = num_players, num_food
        self.player_levels = torch.tensor(levels, dtype=torch.int64) if levels else None
        self._level_range = (min(levels), max(levels)) if levels else (min_player_level, max_player_level)
        self.max_food_level, self.force_coop = max_food_level, force_coop
        self.episode_limit = episode_limit
        self.penalty, self.normalize_reward, self.relative_obs = penalty, normalize_reward, relative_obs
        self.sight = None if sight is None or sight >= max(rows, cols) - 1 else sight
        self._stride = cols + 2  # a cell's code is row * stride + col: no two neighbours wrap around
        self._steps = torch.tensor([-self._stride, self._stride, -1, 1])
        row, col = torch.arange(rows).view(-1, 1), torch.arange(self._stride).view(1, -1)
        self._inside = torch.stack(torch.broadcast_tensors(row > 0, row < rows - 1, col > 0, col < cols - 1), -1).flatten(0, 1)
        self._cells = Cells(rows, cols)
        # Row i: the players as player i sees them, itself first.
        self._seen_order = torch.tensor([[i, *(j for j in range(num_players) if j != i)] for i in range(num_players)])
        self.spec = self._make_spec()

    def _make_spec(self) -> TeamSpec:
        players, foods = self.num_players, self.num_food
        names = tuple(_obs_names(i, players, foods, self.relative_obs) for i in range(players))
        reach = "" if self.sight is None else f"{self.sight}s-"
        highest = 1.0
        if not self.normalize_reward:
            top = self._level_range[1]
            highest = float(foods * (self.max_food_level or min(players, 3) * top) * players * top)
        return TeamSpec(
            name=f"foraging-{reach}{self.rows}x{self.cols}-{players}p-{foods}f{'-coop' if self.force_coop else ''}",
            agents=tuple(f"agent_{i}" for i in range(players)),
            num_actions=len(ACTION_NAMES),
            obs_dim=len(names[0]),
            state_dim=3 * (foods + players),
            episode_limit=self.episode_limit,
            truncates_at_limit=True,
            action_names=(ACTION_NAMES,) * players,
            obs_names=names,
            noop=(0,) * players,
            return_range=(-self.penalty * players * self.episode_limit, highest),
            team_reward="sum",
        )

    @property
    def scripted(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """Hand-written policies, (obs, available) -> action, by name; none where players do not see the whole board."""
        if self.sight is not None:
            return {}
        others = {"shadow": shadow, "saboteur": saboteur} if self.num_players > 1 else {}
        board = {"num_food": self.num_food, "num_players": self.num_players}
        return {name: partial(member, **board) for name, member in {"forager": greedy_forager, **others}.items()}

    def begin(self, clock: Clock) -> ForagingTask:
        draw = uniform(split(clock.key(RESET), 2 * (self.num_players + self.num_food)))
        where, level = draw.unflatten(-1, (2, -1)).unbind(1)
        n = self.num_players
        players, free = spawn_players(self._cells, where[:, :n], level[:, :n], self._level_range)
        if self.player_levels is not None:
            players = torch.cat((players[..., :2], self.player_levels.to(players.device).view(1, -1, 1).expand(len(players), -1, 1)), -1)
        highest = (
            lowest_sum(players[..., 2])
            if self.max_food_level is None
            else torch.full_like(level[:, :1], self.max_food_level, dtype=torch.int64)
        )
        lowest = highest if self.force_coop else torch.ones_like(highest)
        return self.place(spawn_food(self._cells, free, where[:, n:], level[:, n:], lowest, highest), players)

    def place(self, foods: Int[Tensor, "env food 3"], players: Int[Tensor, "env player 3"]) -> ForagingTask:
        """The first moment of an episode that starts from this board (foods in row-major order)."""
        available = self._available(players, self._towards(foods, players))
        return ForagingTask(foods=foods, players=players, food_spawned=foods[..., 2].sum(1), available=available)

    def _towards(self, foods: Int[Tensor, "env food 3"], players: Int[Tensor, "env player 3"]) -> Bool[Tensor, "env player food 4"]:
        """True where the food lies one cell north, south, west or east of the player."""
        gap = self._code(foods).unsqueeze(1) - self._code(players).unsqueeze(2)
        return gap.unsqueeze(-1) == self._steps.to(gap.device)

    def _code(self, items: Int[Tensor, "*batch 3"]) -> Int[Tensor, "*batch"]:
        return items[..., 0] * self._stride + items[..., 1]

    def _available(self, players: Int[Tensor, "env player 3"], towards: Bool[Tensor, "env player food 4"]) -> Bool[Tensor, "env player 6"]:
        food_there = towards.any(2)
        moves = self._inside.to(players.device)[self._code(players)] & ~food_there
        return torch.cat((torch.ones_like(moves[..., :1]), moves, food_there.any(-1, keepdim=True)), -1)

    def advance(self, task: ForagingTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[ForagingTask, Outcome]:
        taken = action * task.available.gather(2, action.unsqueeze(-1)).squeeze(-1)
        shift = _SHIFT.to(action.device)[taken]
        target = self._code(task.players + shift)
        contested = (target.unsqueeze(1) == target.unsqueeze(2)).sum(-1, keepdim=True) > 1
        players = task.players + shift * ~contested

        towards = self._towards(task.foods, players)
        loading = towards.any(-1) & (taken == _LOAD).unsqueeze(-1)  # (env, player, food)
        player_level, food_level = players[..., 2], task.foods[..., 2]
        strength = (loading * player_level.unsqueeze(-1)).sum(1)
        loaded = (strength >= food_level) & (strength > 0)
        agent_reward = self._pay(loading, loaded, strength, player_level, food_level, task.food_spawned)

        foods = task.foods
        if in_one_graph() or loaded.any():  # in one graph there is no branch
            foods = compact(foods, (food_level > 0) & ~loaded)
            towards = towards & ~loaded[:, None, :, None]
        terminated = foods[:, 0, 2] == 0
        outcome = Outcome(
            reward=agent_reward.sum(1).float(),
            agent_reward=agent_reward.float(),
            terminated=terminated,
            truncated=(clock.step + 1 >= self.episode_limit) & ~terminated,
        )
        return ForagingTask(foods, players, task.food_spawned, self._available(players, towards)), outcome

    def _pay(
        self,
        loading: Bool[Tensor, "env player food"],
        loaded: Bool[Tensor, "env food"],
        strength: Int[Tensor, "env food"],
        player_level: Int[Tensor, "env player"],
        food_level: Int[Tensor, "env food"],
        food_spawned: Int[Tensor, " env"],
    ) -> Float[Tensor, "env player"]:
        """Each player's reward in float64, from exact integers (a player loads at most one food at a time)."""
        lifted = loading & loaded.unsqueeze(1)
        share = player_level * (lifted * food_level.unsqueeze(1)).sum(-1)
        if self.normalize_reward:
            whole = (lifted * strength.unsqueeze(1)).sum(-1) * food_spawned.unsqueeze(1)
            reward = share.double() / whole.clamp_min(1)
        else:
            reward = share.double()
        if self.penalty:
            reward -= self.penalty * (loading & ~loaded.unsqueeze(1)).any(-1).double()
        return reward

    def observe(self, task: ForagingTask) -> View:
        batch = len(task.players)
        foods = task.foods.unsqueeze(1).expand(-1, self.num_players, -1, -1)
        players = task.players[:, self._seen_order.to(task.players.device)]
        if self.sight is not None:
            foods, players = self._crop(foods, players, self.sight)
        obs = torch.cat((foods, players), 2).flatten(2).float()
        if self.relative_obs:
            obs = torch.cat((obs, relative_coordinates(obs, self.num_food, self.num_players)), -1)
        return View(
            obs=obs,
            state=torch.cat((task.foods, task.players), 1).flatten(1).float(),
            available=task.available,
            alive=torch.ones(batch, self.num_players, dtype=torch.bool, device=obs.device),
        )

    def _crop(
        self, foods: Int[Tensor, "env player food 3"], players: Int[Tensor, "env player player 3"], sight: int
    ) -> tuple[Int[Tensor, "env player food 3"], Int[Tensor, "env player player 3"]]:
        """What is in sight, in coordinates of the crop's corner, max(position - sight, 0).

        The reference shows players up to 2 sight from that corner, so near the top and left border they are seen from
        further away than foods are. We keep that.
        """
        own = players[:, :, :1]
        corner = (own - sight).clamp_min(0)
        corner[..., 2] = 0
        near = ((foods - own)[..., :2].abs() <= sight).all(-1) & (foods[..., 2] > 0)
        placed = players - corner
        seen = ((placed[..., :2] >= 0) & (placed[..., :2] <= 2 * sight)).all(-1)
        return compact(foods - corner, near), compact(placed, seen)


def _checked_levels(levels: Sequence[int], num_players: int) -> tuple[int, ...]:
    """The fixed levels as a tuple; ValueError where they are not one whole number from 1 on per player."""
    found = tuple(levels) if isinstance(levels, Sequence) else (levels,)
    if len(found) != num_players or not all(isinstance(level, int) and level >= 1 for level in found):
        raise ValueError(f"player_levels {levels!r}: write one level per player, {num_players} whole numbers from 1 on")
    return found


def _obs_names(player: int, num_players: int, num_food: int, relative: bool) -> tuple[str, ...]:
    """Labels of one player's features, in the order of `Foraging.observe`."""
    foods = [f"food_{i}" for i in range(num_food)]
    others = [f"agent_{j}" for j in range(num_players) if j != player]
    names = [f"{item}_{what}" for item in [*foods, "own", *others] for what in ("row", "col", "level")]
    return tuple(names + [f"{item}_{what}_away" for item in foods + others if relative for what in ("rows", "cols")])
