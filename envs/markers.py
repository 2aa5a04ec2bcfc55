"""Where the agents of other people's environments are in the frames that these draw of themselves.

One function per family, written after the drawing code of the version named: it repeats how a position becomes pixels.
An environment of one's own may have a method `locate(agent)` that gives (x, y) or (x, y, radius) in pixels of its frame,
or None for an agent that is not to be seen.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .picture import Place

Places = dict[str, Place]
"""By agent name; one that is missing is not in the frame."""


def find_places(env: Any, agents: Sequence[str]) -> tuple[Place | None, ...] | None:
    """A place per agent in the frame that `env.render()` gives now; None where this environment's positions are not known."""
    base = env.unwrapped if hasattr(env, "unwrapped") else env
    for hook in (getattr(env, "locate", None), getattr(base, "locate", None)):
        if callable(hook):
            return tuple(told_place(hook(agent), agent) for agent in agents)
    module = type(base).__module__
    for prefix, locate in _FAMILIES.items():
        if module.startswith(prefix):
            places = locate(base)
            return tuple(places.get(agent) for agent in agents)
    return None


def told_place(told: Any, agent: str) -> Place | None:
    """What a `locate` gave, as a place."""
    if told is None:
        return None
    try:
        numbers = [float(value) for value in told]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (2, 3) or not np.isfinite(numbers).all():
        raise ValueError(f"locate({agent!r}) gave {told!r}; give (x, y) or (x, y, radius) in pixels of the frame, or None")
    x, y, radius = (*numbers, 12.0)[:3]
    return Place(x, y, radius)


def _mpe(env: Any) -> Places:
    """mpe2 1.1.1, `SimpleEnv.draw`: the camera holds everything that is drawn (a treasure that was picked up is not)."""
    entities = [entity for entity in env.world.entities if getattr(entity, "alive", True)]
    reach = np.abs([entity.state.p_pos for entity in entities]).max() or 1.0
    zoom = 0.9 * env.original_cam_range / reach if env.dynamic_rescaling else 1.0
    places = {}
    for agent in env.world.agents:
        x, y = agent.state.p_pos
        places[agent.name] = Place(
            env.width // 2 + x / reach * env.width // 2 * 0.9,
            env.height // 2 - y / reach * env.height // 2 * 0.9,
            agent.size * 350 * zoom,
        )
    return places


def _knights_archers_zombies(env: Any) -> Places:
    """pettingzoo 1.27, the sprites that are drawn: players alive."""
    drawn = set(env.player_list)
    players = {name: player.rect for name, player in env.agent_map.items() if player in drawn}
    return {name: Place(rect.centerx, rect.centery, max(rect.size) / 2) for name, rect in players.items()}


def _cooperative_pong(env: Any) -> Places:
    """pettingzoo 1.27: a paddle is one box, or the four of the cake."""
    game = env.env
    places = {}
    for name, paddle in (("paddle_0", game.p0), ("paddle_1", game.p1)):
        whole = paddle.rects[0].unionall(paddle.rects[1:])
        places[name] = Place(whole.centerx, whole.centery, max(whole.size) / 2)
    return places


def _pistonball(env: Any) -> Places:
    """pettingzoo 1.27, `draw`: a piston's picture begins a radius left of and above its body; its head is 40 pixels wide."""
    left, half = -env.piston_radius, env.piston_width / 2
    tops = [(piston.position[0] + left + half, piston.position[1] - env.piston_radius) for piston in env.pistonList]
    below = env.piston_head_height + half  # the number stands on the rod, where the ball never is
    return {name: Place(x, y + below, 0.0) for name, (x, y) in zip(env.possible_agents, tops, strict=True)}


def _pursuit(env: Any) -> Places:
    """pettingzoo 1.27, `draw_pursuers`: the middle of the grid's cell."""
    game = env.env
    cell = game.pixel_scale
    positions = [game.pursuer_layer.get_position(i) for i in range(game.pursuer_layer.n_agents())]
    centres = [(cell * (x + 0.5), cell * (y + 0.5)) for x, y in positions]
    return {name: Place(x, y, cell / 3) for name, (x, y) in zip(env.possible_agents, centres, strict=True)}


_FAMILIES: dict[str, Callable[[Any], Places]] = {
    "mpe2.": _mpe,
    "pettingzoo.butterfly.knights_archers_zombies": _knights_archers_zombies,
    "pettingzoo.butterfly.cooperative_pong": _cooperative_pong,
    "pettingzoo.butterfly.pistonball": _pistonball,
    "pettingzoo.sisl.pursuit": _pursuit,
}
