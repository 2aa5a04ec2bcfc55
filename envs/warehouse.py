"""Robotic warehouse: robots bring requested shelves to the goals and put them away again, as the package rware 2.0.0.

Per step, all at once: a robot turns, loads or unloads the shelf under it, or goes one cell ahead (at the wall it stays);
warehouse_move.py says which robots get through. A loaded robot cannot pass under a shelf that stands, an empty one can;
a shelf is put down anywhere but in the corridors. Then, goal by goal, a requested shelf that a robot has brought pays 1
(see `Warehouse.reward_type`), and a shelf that nobody has requested is requested in its stead, each equally likely.

A warehouse never ends by itself: the step limit is `truncated` (the package reports it as terminated).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from .base import TeamSpec, View
from .native import NativeEnv, Outcome
from .randomness import RESET, TASK, Clock, split, uniform
from .warehouse_layout import DOWN, LEFT, RIGHT, UP, Layout
from .warehouse_move import may_move
from .warehouse_ties import Ties
from .warehouse_view import LOADED, NUMBER, REQUESTED, ROBOT, SHELF, cell_table, obs_names, own_tables

ACTION_NAMES = ("noop", "forward", "left", "right", "toggle")
REWARD_TYPES = ("individual", "global", "two_stage")
_FORWARD, _TOGGLE = 1, 4
_TURNED = torch.tensor(  # (action, heading) -> heading
    [[UP, DOWN, LEFT, RIGHT], [UP, DOWN, LEFT, RIGHT], [LEFT, RIGHT, DOWN, UP], [RIGHT, LEFT, UP, DOWN], [UP, DOWN, LEFT, RIGHT]]
)
_SHIFTS = torch.tensor([0, 32])


@dataclass(frozen=True)
class WarehouseTask:
    """One moment."""

    cell: Int[Tensor, "env agent"]
    """Where each robot stands: row * cols + col."""
    heading: Int[Tensor, "env agent"]
    """0 up, 1 down, 2 left, 3 right."""
    loaded: Bool[Tensor, "env agent"]
    """Whether it carries the shelf of its cell."""
    delivered: Bool[Tensor, "env agent"]
    """Whether it was paid for a shelf that it has not put down since (kept for `two_stage` alone, else False)."""
    holds: Int[Tensor, "env place"]
    """What each cell holds (see warehouse_view.py); the last place is outside and always 0."""
    shelf_cell: Int[Tensor, "env number"]
    """The cell of shelf 1, 2, ...; number 0 is no shelf."""
    idle: Int[Tensor, "env idle"]
    """The numbers of the shelves that nobody has requested, in no particular order."""


class Warehouse(NativeEnv[WarehouseTask]):
    """B copies of a warehouse.

    Args:
        shelf_rows, shelf_columns, column_height: blocks of shelves down and across, and shelves in a column of a block.
        num_agents: robots.
        num_requests: shelves requested at any time; None: as many as robots.
        sensor_range: how many cells far a robot sees to each side.
        reward_type: who is paid for a delivery. "individual": its robot gets 1; "global": every robot gets 1 (and the team
            counts it once); "two_stage": its robot gets 0.5, and 0.5 when it next puts a shelf down.
        episode_limit: env steps until truncation.
    """

    def __init__(
        self,
        shelf_rows: int = 1,
        shelf_columns: int = 3,
        column_height: int = 8,
        num_agents: int = 2,
        num_requests: int | None = None,
        *,
        sensor_range: int = 1,
        reward_type: str = "individual",
        episode_limit: int = 500,
    ):
        num_requests = num_agents if num_requests is None else num_requests
        if shelf_rows < 1 or column_height < 1 or shelf_columns < 1 or shelf_columns % 2 == 0:
            raise ValueError(
                f"{shelf_rows} rows and {shelf_columns} columns of shelves, {column_height} high: "
                "each is at least 1, and the number of columns is odd (the goals lie below the middle one)"
            )
        if sensor_range < 1:
            raise ValueError(f"sensor_range is {sensor_range}; a robot sees at least 1 cell far")
        if reward_type not in REWARD_TYPES:
            raise ValueError(f"reward_type is {reward_type!r}; choose one of {', '.join(REWARD_TYPES)}")
        if episode_limit < 1:
            raise ValueError(f"episode_limit is {episode_limit}; an episode has at least 1 env step")
        self.layout = Layout(shelf_rows, shelf_columns, column_height, sensor_range)
        self.num_shelves = len(self.layout.storage)
        if not 1 <= num_agents <= self.layout.num_cells:
            raise ValueError(f"num_agents is {num_agents}; the {self.layout.num_cells} cells have room for 1 to {self.layout.num_cells}")
        if not 0 <= num_requests < self.num_shelves <= NUMBER:
            raise ValueError(
                f"num_requests is {num_requests} of {self.num_shelves} shelves; at least one shelf must be free to be requested next, "
                f"and a warehouse has at most {NUMBER} of them"
            )
        self.num_requests, self.reward_type, self.episode_limit = num_requests, reward_type, episode_limit
        self._ties = Ties(self.layout.x, self.layout.y, num_agents) if num_agents > 3 else None
        self._own_features, self._own_state = own_tables(self.layout)
        self._cell_features = cell_table()
        self.spec = self._make_spec(num_agents, sensor_range)
        number, storage = torch.arange(1, self.num_shelves + 1), self.layout.storage
        # Every shelf in its place, no robot, no request.
        self._shelf_cell = torch.cat((storage.new_zeros(1), storage)).short()
        self._holds = torch.zeros(self.layout.num_cells + 1, dtype=torch.int16).scatter(0, storage, (SHELF + number).short())

    def _make_spec(self, n: int, sensor_range: int) -> TeamSpec:
        names = obs_names(sensor_range)
        return TeamSpec(
            name=f"rware-{self.layout.rows}x{self.layout.cols}-{n}ag-{self.num_requests}req",
            agents=tuple(f"agent_{i}" for i in range(n)),
            num_actions=len(ACTION_NAMES),
            obs_dim=len(names),
            state_dim=(8 + (self.reward_type == "two_stage")) * n + 2 * self.num_shelves,
            episode_limit=self.episode_limit,
            truncates_at_limit=True,
            action_names=(ACTION_NAMES,) * n,
            obs_names=(names,) * n,
            noop=(0,) * n,
            # Two robots side by side on the goals may in principle deliver at every step; a range of (0, 1000) says nothing.
            return_range=None,
            team_reward="shared" if self.reward_type == "global" else "sum",
        )

    def begin(self, clock: Clock) -> WarehouseTask:
        n, requests = self.spec.num_agents, self.num_requests
        draw = uniform(split(clock.key(RESET), 2 * n + requests))
        cell = _deal(self.layout.num_cells, draw[:, :n])[:, :n].long()
        heading = (draw[:, n : 2 * n] * 4).long()
        number = 1 + _deal(self.num_shelves, draw[:, 2 * n :])
        shelf_cell = self._shelf_cell.to(cell.device).repeat(len(cell), 1)
        holds = self._holds.to(cell.device).repeat(len(cell), 1)
        holds = holds.scatter_add_(1, cell, (ROBOT * (heading + 1)).short())
        wanted = shelf_cell.gather(1, number[:, :requests].long()).long()
        holds = holds.scatter_add_(1, wanted, torch.full_like(wanted, REQUESTED, dtype=torch.int16))
        nobody = torch.zeros_like(cell, dtype=torch.bool)
        return WarehouseTask(cell, heading, nobody, nobody, holds, shelf_cell, number[:, requests:].contiguous())

    def place(
        self,
        cell: Int[Tensor, "env agent"],
        heading: Int[Tensor, "env agent"],
        loaded: Bool[Tensor, "env agent"],
        shelf_cell: Int[Tensor, "env shelf"],
        requested: Bool[Tensor, "env shelf"],
    ) -> WarehouseTask:
        """The moment at which robots and shelves stand so; `num_requests` shelves of each copy are requested."""
        number = torch.arange(1, self.num_shelves + 1, device=cell.device)
        holds = torch.zeros(len(cell), self.layout.num_cells + 1, dtype=torch.int16, device=cell.device)
        holds.scatter_add_(1, shelf_cell, (SHELF + number + REQUESTED * requested).short())
        holds.scatter_add_(1, cell, (ROBOT * (heading + 1) + LOADED * loaded).short())
        idle = 1 + requested.byte().argsort(dim=1, stable=True)[:, : self.num_shelves - self.num_requests]
        none = torch.zeros_like(shelf_cell[:, :1])
        return WarehouseTask(
            cell=cell,
            heading=heading,
            loaded=loaded,
            delivered=torch.zeros_like(loaded),
            holds=holds,
            shelf_cell=torch.cat((none, shelf_cell), 1).short(),
            idle=idle.short(),
        )

    def advance(self, task: WarehouseTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[WarehouseTask, Outcome]:
        here = task.holds.gather(1, task.cell)
        cell = self._move(task, action)
        heading = _TURNED.to(action.device).take(torch.add(task.heading, action, alpha=4))
        may_toggle = torch.where(task.loaded, ~self.layout.highway.to(action.device).take(task.cell), (here & SHELF) > 0)
        loaded = task.loaded ^ ((action == _TOGGLE) & may_toggle)

        leaves = torch.where(task.loaded, here, here & (LOADED - ROBOT))
        arrives = leaves + ((heading - task.heading) * ROBOT + (loaded.short() - task.loaded.short()) * LOADED).short()
        holds = task.holds.scatter_add(1, task.cell, -leaves).scatter_add_(1, cell, arrives)
        carried = (here & NUMBER) * task.loaded
        shelf_cell = task.shelf_cell.scatter(1, carried.long(), cell.short() * task.loaded)

        brought, idle, holds = self._deliver(holds, shelf_cell, task.idle, clock)
        left, right = brought.split(1, 1)
        paid = ((cell == self.layout.first_goal) & left) | ((cell == self.layout.first_goal + 1) & right)
        agent_reward, delivered = self._pay(paid, brought, task.delivered, task.loaded & ~loaded)
        truncated = clock.step + 1 >= self.episode_limit
        outcome = Outcome(
            reward=agent_reward[:, 0] if self.reward_type == "global" else agent_reward.sum(1),
            agent_reward=agent_reward,
            terminated=torch.zeros_like(truncated),
            truncated=truncated,
        )
        return WarehouseTask(cell, heading, loaded, delivered, holds, shelf_cell, idle), outcome

    def _move(self, task: WarehouseTask, action: Int[Tensor, "env agent"]) -> Int[Tensor, "env agent"]:
        """The cells after the step."""
        ahead = self.layout.ahead.to(action.device).take(torch.add(task.heading, task.cell, alpha=4))
        stands = (task.holds.gather(1, ahead) & (SHELF + LOADED)) == SHELF
        # A robot at the wall finds its own shelf ahead, which it carries: `stands` is False.
        tries = (action == _FORWARD) & ~(task.loaded & stands)
        target = torch.where(tries, ahead, task.cell)
        return torch.where(may_move(task.cell, target, self._ties), target, task.cell)

    def _deliver(
        self, holds: Int[Tensor, "env place"], shelf_cell: Int[Tensor, "env number"], idle: Int[Tensor, "env idle"], clock: Clock
    ) -> tuple[Bool[Tensor, "env 2"], Int[Tensor, "env idle"], Int[Tensor, "env place"]]:
        """At which goals a requested shelf has arrived, and the idle shelves and cells with the new requests; writes into `holds`.

        The first goal's new request may be the shelf on the second, and the second's may be the one just delivered.
        """
        goal = self.layout.first_goal
        at_goal = holds[:, goal : goal + 2]
        first, second = (at_goal & NUMBER).split(1, 1)
        brought, also = (at_goal >= REQUESTED).split(1, 1)
        draw, draw_also = two_below(idle.shape[1], clock.key(TASK)).split(1, 1)
        fresh = idle.gather(1, draw)
        idle = idle.scatter(1, draw, torch.where(brought, first, fresh))
        also = also | (brought & (second == fresh))
        fresh_also = idle.gather(1, draw_also)
        idle = idle.scatter_(1, draw_also, torch.where(also, second, fresh_also))
        brought = torch.cat((brought, also), 1)
        change = brought.short() * REQUESTED
        holds[:, goal : goal + 2] -= change
        return brought, idle, holds.scatter_add_(1, shelf_cell.gather(1, torch.cat((fresh, fresh_also), 1).long()).long(), change)

    def _pay(
        self,
        paid: Bool[Tensor, "env agent"],
        brought: Bool[Tensor, "env 2"],
        delivered: Bool[Tensor, "env agent"],
        unloads: Bool[Tensor, "env agent"],
    ) -> tuple[Float[Tensor, "env agent"], Bool[Tensor, "env agent"]]:
        """Each robot's reward, and who has been paid half so far."""
        if self.reward_type == "individual":
            return paid.float(), delivered
        if self.reward_type == "global":
            return brought.float().sum(1, keepdim=True).expand(-1, self.spec.num_agents), delivered
        return 0.5 * paid.float() + 0.5 * (unloads & delivered).float(), (delivered & ~unloads) | paid

    def observe(self, task: WarehouseTask) -> View:
        """`obs` is the package's. `state` is `own_tables`' row of each robot (then `delivered`, if kept), for every storage
        cell whether a shelf stands there, and for every storage cell whether a requested one does.
        """
        batch, n = task.cell.shape
        around = self.layout.around.to(task.cell.device).index_select(0, task.cell.flatten()).view(batch, -1)
        seen = task.holds.gather(1, around)
        own = torch.add(torch.add(task.loaded, task.heading, alpha=2), task.cell, alpha=8)
        window = embedding((seen >> 9).int(), self._cell_features.to(own.device))
        obs = torch.cat((embedding(own, self._own_features.to(own.device)), window.view(batch, n, -1)), 2)

        under = seen.view(batch, n, -1)[..., self.layout.around.shape[1] // 2]
        robots = embedding(own * 2 + (task.loaded & (under >= REQUESTED)), self._own_state.to(own.device))
        stored = task.holds.index_select(1, self.layout.storage.to(own.device))
        stands = (stored & (SHELF + LOADED)) == SHELF
        parts = [robots.flatten(1), stands.float(), (stands & (stored >= REQUESTED)).float()]
        if self.reward_type == "two_stage":
            parts.insert(1, task.delivered.float())
        everyone = torch.ones(batch, n, dtype=torch.bool, device=own.device)
        return View(obs=obs, state=torch.cat(parts, 1), available=everyone.unsqueeze(-1).expand(-1, -1, len(ACTION_NAMES)), alive=everyone)


def _deal(count: int, draw: Float[Tensor, "env cards"]) -> Int[Tensor, "env deck"]:
    """The numbers below `count` in an order of which the first few, one per uniform draw, are random: Fisher and Yates's shuffle."""
    deck = torch.arange(count, dtype=torch.int16, device=draw.device).repeat(len(draw), 1)
    for place, share in enumerate(draw.split(1, 1)):
        pick = place + (share * (count - place)).long()
        top, drawn = deck[:, place : place + 1].clone(), deck.gather(1, pick)
        deck.scatter_(1, pick, top)
        deck[:, place : place + 1] = drawn
    return deck


def two_below(limit: int, key: Int[Tensor, " env"]) -> Int[Tensor, "env 2"]:
    """Two numbers from 0 to limit - 1 from one key, each of 31 of its bits (the error of a probability is below 2^-31)."""
    halves = (key.unsqueeze(1) >> _SHIFTS.to(key.device)) & ((1 << 31) - 1)
    return (halves * limit) >> 31
