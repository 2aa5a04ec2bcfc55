"""Pictures of the native tasks whose credit is known: plate and door, the delayed chain, key and door, uphill, from their states.

`now` is the joint action about to be taken (None after the last step), `last` the one that led here (None at a reset).
"""

from collections.abc import Callable, Sequence

from .delayed_chain import ChainTask, DelayedChain
from .key_and_door import ACTION_NAMES, KeyAndDoor, KeyTask
from .picture import FAINT, INK, LINES, PAPER, Canvas, Colour, Picture, Place
from .plate_and_door import AGENTS, GUARD_CELLS, WALKER_CELLS, PlateTask
from .uphill import ACTION_NAMES as UPHILL_ACTIONS
from .uphill import Uphill, UphillTask

Joint = Sequence[int] | None

_FLOOR, _PLATE, _GOAL, _DOOR = (250, 250, 250), (255, 214, 102), (200, 230, 201), (120, 84, 50)
_HERE, _WORTH, _NOTHING = (255, 244, 214), (222, 235, 247), (246, 246, 246)


def draw_plate_and_door(task: PlateTask, row: int, size: int) -> Picture:
    """A lane for each agent; the plate is yellow, the goal green, and the door a bar that is missing while the guard is on the plate."""
    guard, walker = int(task.guard[row]), int(task.walker[row])
    left, lane, cell = 0.2 * size, 0.25 * size, 0.19 * size
    canvas = Canvas(size, round(0.8 * size))
    places = []
    for agent, (cells, at) in enumerate(((GUARD_CELLS, guard), (WALKER_CELLS, walker), (1, 0))):
        top = 0.03 * size + agent * lane
        canvas.text((left - 0.02 * size, top + cell / 2), AGENTS[agent], 0.035 * size, FAINT, "rm")
        for i in range(cells):
            is_plate, is_goal = agent == 0 and i == 0, agent == 1 and i == WALKER_CELLS - 1
            canvas.box((left + i * cell, top), (cell, cell), _PLATE if is_plate else _GOAL if is_goal else _FLOOR, LINES)
        places.append(Place(left + (at + 0.5) * cell, top + cell / 2, 0.36 * cell))
    if guard != 0:
        door = left + (WALKER_CELLS - 1) * cell
        canvas.box((door - 0.008 * size, 0.03 * size + lane), (0.016 * size, cell), _DOOR)
    for agent, place in enumerate(places):
        canvas.badge((place.x, place.y), place.radius, agent)
    return Picture(canvas.pixels(), tuple(places), numbered=True)


def draw_uphill(env: Uphill, task: UphillTask, row: int, now: Joint, size: int) -> Picture:
    """A flight of stairs for each agent, its stone as a badge on the step it lies on, the top green; beside it what it is about to do."""
    high, left, right = min(0.28, 0.92 / env.num_agents) * size, 0.03 * size, 0.14 * size
    wide, rise = (size - left - right) / (env.height + 1), 0.5 * high / env.height
    radius = min(0.16 * high, 0.36 * wide)
    canvas = Canvas(size, round(env.num_agents * high + 0.04 * size))
    places = []
    for agent, at in enumerate(task.height[row].tolist()):
        ground = 0.02 * size + (agent + 1) * high
        for h in range(env.height + 1):
            tall = 0.1 * high + h * rise
            canvas.box((left + h * wide, ground - tall), (wide, tall), _GOAL if h == env.height else _FLOOR, LINES)
        places.append(Place(left + (at + 0.5) * wide, ground - 0.1 * high - at * rise - radius, radius))
        canvas.badge((places[-1].x, places[-1].y), radius, agent)
        if now is not None:
            canvas.text((size - right + 0.01 * size, ground - high / 2), UPHILL_ACTIONS[now[agent]], 0.03 * size, FAINT, "lm")
    return Picture(canvas.pixels(), tuple(places), numbered=True)


def draw_delayed_chain(env: DelayedChain, task: ChainTask, row: int, now: Joint, size: int) -> Picture:
    """What each agent (down) can earn at each step (across), the coming step framed; above it what is earned and not yet paid."""
    step, target = int(task.step[row]), task.target[row].tolist()
    caption = f"earned so far, paid at the end: {float(task.earned[row]):g} of {float(env.weights.sum()):g}"

    def worth(t: int, agent: int) -> tuple[str, Colour]:
        weight = float(env.weights[t, agent])
        return f"{weight:g}" if weight else "", _WORTH if weight else _NOTHING

    notes = None if now is None else ["right" if did == right else "wrong" for did, right in zip(now, target, strict=True)]
    return _timetable(env.steps, env.num_agents, step, worth, caption, notes, size)


def draw_key_and_door(env: KeyAndDoor, task: KeyTask, row: int, now: Joint, size: int) -> Picture:
    """Agents down, steps across: where the key must be taken and the door opened; the coming step is framed."""
    has_key, is_open = bool(task.has_key[row]), bool(task.is_open[row])
    caption = f"key {'taken' if has_key else 'not taken'}, door {'open' if is_open else 'shut'}; paid at the end"
    marks = {(env.key_step, env.key_agent): "key", (env.door_step, env.door_agent): "door"}

    def mark(t: int, agent: int) -> tuple[str, Colour]:
        return marks.get((t, agent), ""), _WORTH if (t, agent) in marks else _NOTHING

    notes = None if now is None else [ACTION_NAMES[did] for did in now]
    return _timetable(env.steps, env.num_agents, int(task.step[row]), mark, caption, notes, size)


def _timetable(
    steps: int,
    agents: int,
    step: int,
    cell: Callable[[int, int], tuple[str, Colour]],
    caption: str,
    notes: Sequence[str] | None,
    size: int,
) -> Picture:
    """A row per agent, a column per step; `notes` stand in the last column, what each agent is about to do."""
    top, left, right = 0.14 * size, 0.12 * size, 0.14 * size
    wide = (size - left - right) / steps
    high = min(0.16 * size, 0.8 * size / agents)
    canvas = Canvas(size, round(top + agents * high + 0.03 * size))
    canvas.text((size / 2, 0.04 * size), caption, 0.032 * size)
    letters = min(0.035 * size, 0.3 * wide, 0.5 * high)
    places = []
    for agent in range(agents):
        y = top + agent * high
        for t in range(steps):
            text, fill = cell(t, agent)
            canvas.box((left + t * wide, y), (wide, high), _HERE if t == step and not text else fill, PAPER)
            canvas.text((left + (t + 0.5) * wide, y + high / 2), text, letters)
        place = Place(left / 2, y + high / 2, min(0.32 * high, 0.36 * left))
        canvas.badge((place.x, place.y), place.radius, agent)
        places.append(place)
        if notes is not None:
            canvas.text((size - right + 0.01 * size, y + high / 2), notes[agent], 0.03 * size, FAINT, "lm")
    for t in range(steps):
        canvas.text((left + (t + 0.5) * wide, top - 0.02 * size), str(t), min(letters, 0.03 * size), FAINT)
    if step < steps:
        canvas.box((left + step * wide, top), (wide, agents * high), line=INK, width=2)
    return Picture(canvas.pixels(), tuple(places), numbered=True)
