"""Pictures of the native tasks on a grid: the corridor of switch, and predators with their prey."""

from collections.abc import Sequence

from .picture import INK, LINES, PAPER, Canvas, Colour, Length, Picture, Place, Point, colour_of
from .predator_prey import CATCH, PredatorPreyTask
from .predator_prey_board import Board
from .switch import COLS, GOALS, ROWS, SwitchTask, is_free

Joint = Sequence[int] | None
Cell = tuple[int, int]

_WALL, _FLOOR, _GRASS, _MEADOW = (70, 78, 92), (250, 250, 250), (236, 244, 228), (228, 239, 217)
_FUR, _EAR, _NOSE = (148, 98, 58), (229, 184, 156), (60, 36, 24)


def draw_switch(task: SwitchTask, row: int, size: int) -> Picture:
    """Walls are dark, a goal is a flag on the tint of its agent's colour; an agent at home stands before its flag, framed."""
    where = [divmod(cell, COLS) for cell in task.cell[row].tolist()]
    cell, canvas = _grid(ROWS, COLS, size)
    for r in range(ROWS):
        for c in range(COLS):
            canvas.box((c * cell, r * cell), (cell, cell), _FLOOR if is_free(r, c) else _WALL, LINES if is_free(r, c) else _WALL)
    for agent, goal in enumerate(GOALS[: len(where)]):
        (r, c), home = goal, where[agent] == goal
        inset = 0.05 * cell
        corner, side = (c * cell + inset, r * cell + inset), (cell - 2 * inset, cell - 2 * inset)
        canvas.box(corner, side, _tint(colour_of(agent), 0.3 if home else 0.18), colour_of(agent), max(2.0, cell / (12 if home else 24)), 4)
        if not home:
            _flag(canvas, (c * cell, r * cell), cell, agent)
    places = tuple(_place(at, cell) for at in where)
    for agent, place in enumerate(places):
        canvas.badge((place.x, place.y), place.radius, agent)
    return Picture(canvas.pixels(), places, numbered=True)


def draw_predator_prey(task: PredatorPreyTask, row: int, board: Board, now: Joint, size: int) -> Picture:
    """Prey are rabbits, predators numbered discs with a thick black rim while they catch; frozen ones are pale and below the rest."""
    predators, prey = ([divmod(code, board.stride) for code in who[row].tolist()] for who in (task.predators, task.prey))
    frozen, caught = task.frozen[row].tolist(), task.caught[row].tolist()
    cell, canvas = _grid(board.rows, board.cols, size)
    for r in range(board.rows):
        for c in range(board.cols):
            canvas.box((c * cell, r * cell), (cell, cell), _GRASS if (r + c) % 2 else _MEADOW, LINES)
    places = tuple(_place(at, cell) for at in predators)
    for agent in sorted(range(len(places)), key=lambda i: not frozen[i]):
        place = places[agent]
        if frozen[agent]:
            _pale_badge(canvas, place, agent)
            continue
        if now is not None and now[agent] == CATCH:
            canvas.disc((place.x, place.y), place.radius + max(2.5, cell / 14), INK)
        canvas.badge((place.x, place.y), place.radius, agent)
    for at, is_caught in zip(prey, caught, strict=True):
        if not is_caught:
            _rabbit(canvas, _place(at, cell))
    return Picture(canvas.pixels(), places, numbered=True)


def _grid(rows: int, cols: int, size: int) -> tuple[int, Canvas]:
    """The side of a cell and a canvas of whole cells, whose longer side is about `size`."""
    cell = max(12, size // max(rows, cols))
    return cell, Canvas(cols * cell + 1, rows * cell + 1)


def _place(at: Cell, cell: Length) -> Place:
    return Place((at[1] + 0.5) * cell, (at[0] + 0.5) * cell, 0.36 * cell)


def _tint(colour: Colour, strength: float) -> Colour:
    """`colour` thinned on white."""
    red, green, blue = (round(255 + (value - 255) * strength) for value in colour)
    return red, green, blue


def _flag(canvas: Canvas, corner: Point, cell: Length, agent: int) -> None:
    """A pole with a pennant of the agent's colour, and its number below."""
    (x, y), colour = corner, colour_of(agent)
    pole, top, foot = x + 0.32 * cell, y + 0.2 * cell, y + 0.8 * cell
    canvas.polygon([(pole, top), (pole + 0.42 * cell, top + 0.15 * cell), (pole, top + 0.3 * cell)], colour)
    canvas.line([(pole, top), (pole, foot)], INK, max(1.5, cell / 24))
    canvas.text((x + 0.6 * cell, y + 0.66 * cell), str(agent), 0.3 * cell)


def _pale_badge(canvas: Canvas, place: Place, agent: int) -> None:
    """A frozen predator: the ghost of its disc."""
    colour = colour_of(agent)
    canvas.disc((place.x, place.y), place.radius, _tint(colour, 0.2), line=_tint(colour, 0.55), width=1)
    canvas.text((place.x, place.y), str(agent), 1.1 * place.radius, _tint(INK, 0.45))


def _rabbit(canvas: Canvas, place: Place) -> None:
    """A head with two ears, seen from the front."""
    x, r = place.x, 0.62 * place.radius
    y = place.y + 0.5 * r
    for side in (-1, 1):
        for colour, wide, high in ((_FUR, 0.62, 1.6), (_EAR, 0.28, 1.15)):
            left, top = x + side * 0.5 * r - wide * r / 2, y - 0.55 * r - high * r
            canvas.box((left, top), (wide * r, high * r), colour, round_by=wide * r / 2)
    canvas.disc((x, y), 1.06 * r, PAPER)
    canvas.disc((x, y), r, _FUR)
    for side in (-1, 1):
        canvas.disc((x + side * 0.4 * r, y - 0.12 * r), 0.17 * r, PAPER)
        canvas.disc((x + side * 0.4 * r, y - 0.12 * r), 0.1 * r, INK)
    canvas.disc((x, y + 0.36 * r), 0.16 * r, _NOSE)
