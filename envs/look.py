"""A picture of one copy of any task as it stands: drawn here from its state, or the frame its environment renders.

Native tasks, lbforaging and rware are drawn here. Any other ParallelEnv is asked for its own frame (`render_mode`
"rgb_array"), and markers.py knows where its agents are. A `TeamEnv` of one's own may have `render(state, row)` that
gives such a frame, and `locate(state, row, agent)` that gives (x, y) or (x, y, radius) in its pixels, or None.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from .base import TeamEnv
from .coalition import CoalitionTask
from .delayed_chain import DelayedChain
from .delayed_reward import DelayedNative, DelayedTeam
from .draw_board import draw_foraging, draw_lbf, draw_native_warehouse, draw_warehouse
from .draw_credit import draw_delayed_chain, draw_key_and_door, draw_plate_and_door, draw_uphill
from .draw_grid import draw_predator_prey, draw_switch
from .draw_tasks import Joint, draw_matrix, draw_spread, draw_two_step
from .errors import CannotRender
from .foraging import Foraging
from .key_and_door import KeyAndDoor
from .markers import find_places, told_place
from .matrix import MatrixGame
from .pettingzoo import PettingZooTeam
from .picture import Picture
from .plate_and_door import PlateAndDoor
from .predator_prey import PredatorPrey
from .spread import Spread
from .switch import Switch
from .two_step import TwoStep
from .uphill import Uphill
from .warehouse import Warehouse

_REMEDY = 'Accept render_mode="rgb_array" and return a uint8 array (height, width, 3) from render().'


def look(env: TeamEnv, state: Any, row: int = 0, *, now: Joint = None, last: Joint = None, size: int = 480) -> Picture:
    """The copy `row` of `state`.

    Args:
        env: made with `render_mode="rgb_array"` where it draws itself.
        now: the joint action about to be taken, None after the last step.
        last: the joint action that led here, None at a reset.
        size: side in pixels of what is drawn here; frames of packages come as they are.

    Raises:
        CannotRender: the environment gives no frame, or something that is none.
    """
    if isinstance(env, DelayedNative):
        return look(env.inner, replace(state, task=state.task.inner), row, now=now, last=last, size=size)
    if isinstance(env, DelayedTeam):
        return look(env.inner, state.inner, row, now=now, last=last, size=size)
    if isinstance(env, Spread):
        return draw_spread(state.task, row, now, size)
    if isinstance(env, Foraging):
        return draw_foraging(state.task, row, env.rows, env.cols, now, size)
    if isinstance(env, Switch):
        return draw_switch(state.task, row, size)
    if isinstance(env, PredatorPrey):
        return draw_predator_prey(state.task, row, env.board, now, size)
    if isinstance(env, Warehouse):
        return draw_native_warehouse(state.task, row, env.layout, size)
    if isinstance(env, CoalitionTask) and env.payoff is not None:
        return draw_matrix(MatrixGame(env.payoff), now, last, size)
    if isinstance(env, MatrixGame):
        return draw_matrix(env, now, last, size)
    if isinstance(env, TwoStep):
        return draw_two_step(state.task, row, now, last, size)
    if isinstance(env, PlateAndDoor):
        return draw_plate_and_door(state.task, row, size)
    if isinstance(env, DelayedChain):
        return draw_delayed_chain(env, state.task, row, now, size)
    if isinstance(env, KeyAndDoor):
        return draw_key_and_door(env, state.task, row, now, size)
    if isinstance(env, Uphill):
        return draw_uphill(env, state.task, row, now, size)
    name, agents = env.spec.name, env.spec.agents
    if isinstance(env, PettingZooTeam):
        live = env.live(state, row)
        drawn = _draw_package(live.unwrapped, now, size)
        if drawn is not None:
            return drawn
        return Picture(_checked(_render(live, name), name), find_places(live, agents))
    if not callable(getattr(env, "render", None)):
        raise CannotRender(f"{name} is a TeamEnv without render(state, row).", "Give it one that returns a uint8 array (height, width, 3).")
    own: Any = env
    places = tuple(told_place(own.locate(state, row, agent), agent) for agent in agents) if hasattr(own, "locate") else None
    return Picture(_checked(own.render(state, row), name), places)


def _draw_package(base: Any, now: Joint, size: int) -> Picture | None:
    """The picture of a board whose package can only draw on a screen; None for other environments."""
    board = getattr(base, "env", base)
    board = getattr(board, "unwrapped", board)
    package = type(board).__module__.split(".")[0]
    if package == "lbforaging":
        return draw_lbf(board, now, size)
    return draw_warehouse(board, size) if package == "rware" else None


def _render(live: Any, name: str) -> Any:
    try:
        return live.render()
    except NotImplementedError as error:
        raise CannotRender(f"{name} has no render().", _REMEDY) from error


def _checked(frame: Any, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """The frame as an array of its own; CannotRender says what came instead."""
    if frame is None:
        raise CannotRender(f"{name} gives no picture: render() returned None.", _REMEDY)
    if not isinstance(frame, np.ndarray):
        raise CannotRender(f"{name}: render() returned a {type(frame).__name__}, which is no picture.", _REMEDY)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in (3, 4) or 0 in frame.shape:
        raise CannotRender(f"{name}: render() returned {frame.dtype} of shape {frame.shape}, which is no picture.", _REMEDY)
    return np.array(frame[..., :3])
