"""Pictures of boards: level-based foraging and the warehouse, native or as the live board of lbforaging or rware 2.0.0.

Both packages draw with pyglet, which needs a screen; here they are drawn from what they hold.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from .foraging import ACTION_NAMES, ForagingTask
from .picture import FAINT, INK, LINES, PAPER, Canvas, Length, Picture, Place, Point, colour_of
from .warehouse import WarehouseTask
from .warehouse_layout import Layout
from .warehouse_view import HEADINGS, NUMBER, REQUESTED, SHELF

Cell = tuple[int, int]
Item = tuple[int, int, int]
"""(row, col, level)."""
Joint = Sequence[int] | None

_LOAD = ACTION_NAMES.index("load")
_FOOD, _LEAF = (186, 46, 46), (62, 140, 62)
_FLOOR, _STORE, _SHELF, _WANTED, _GOAL = (250, 250, 250), (232, 232, 236), (176, 160, 140), (255, 196, 61), (70, 78, 92)


def draw_foraging(task: ForagingTask, row: int, rows: int, cols: int, now: Joint, size: int) -> Picture:
    """A native board."""
    foods, players = task.foods[row].tolist(), task.players[row].tolist()
    return _foraging([tuple(food) for food in foods if food[2] > 0], [tuple(player) for player in players], rows, cols, now, size)


def draw_lbf(board: Any, now: Joint, size: int) -> Picture:
    """A `ForagingEnv` of lbforaging 2.0.0, whose actions are numbered as the native task's."""
    rows, cols = board.field.shape
    foods = [(row, col, int(board.field[row, col])) for row in range(rows) for col in range(cols) if board.field[row, col] > 0]
    players = [(int(player.position[0]), int(player.position[1]), int(player.level)) for player in board.players]
    return _foraging(foods, players, rows, cols, now, size)


def _foraging(foods: Iterable[Item], players: Sequence[Item], rows: int, cols: int, now: Joint, size: int) -> Picture:
    """Foods are apples with their level; players have their number and level (L2), and a thick black rim while they load."""
    cell, canvas = _board(rows, cols, size)
    for row in range(rows):
        for col in range(cols):
            canvas.box((col * cell, row * cell), (cell, cell), _FLOOR if (row + col) % 2 else PAPER, LINES)
    for row, col, level in foods:
        x, y, radius = (col + 0.5) * cell, (row + 0.54) * cell, 0.34 * cell
        canvas.line([(x, y - 0.8 * radius), (x + 0.25 * radius, y - 1.4 * radius)], INK, max(1.0, cell / 24))
        canvas.disc((x + 0.5 * radius, y - 1.15 * radius), 0.25 * radius, _LEAF)
        canvas.disc((x, y), radius, _FOOD)
        canvas.text((x, y), str(level), 1.15 * radius, PAPER)
    places = _share_cells([(row, col) for row, col, _ in players], cell)
    for i, (place, (_, _, level)) in enumerate(zip(places, players, strict=True)):
        if now is not None and now[i] == _LOAD:
            canvas.disc((place.x, place.y), place.radius + max(2.5, cell / 14), INK)
        canvas.badge((place.x, place.y), place.radius, i)
        _tag(canvas, (place.x + 0.8 * place.radius, place.y + 0.8 * place.radius), f"L{level}", max(9.0, 0.55 * place.radius))
    return Picture(canvas.pixels(), tuple(places), numbered=True)


def draw_native_warehouse(task: WarehouseTask, row: int, layout: Layout, size: int) -> Picture:
    """A native warehouse, drawn as the package's."""
    cells = [divmod(cell, layout.cols) for cell in range(layout.num_cells)]
    held = list(zip(cells, task.holds[row].tolist(), strict=False))
    shelves = {what & NUMBER: SimpleNamespace(id=what & NUMBER, x=x, y=y) for (y, x), what in held if what & SHELF}
    robots = zip(task.cell[row].tolist(), task.heading[row].tolist(), task.loaded[row].tolist(), strict=True)
    board = SimpleNamespace(
        grid_size=(layout.rows, layout.cols),
        highways=layout.highway.view(layout.rows, layout.cols),
        goals=[(x, y) for y, x in cells[layout.first_goal :][:2]],
        shelfs=list(shelves.values()),
        request_queue=[shelves[what & NUMBER] for _, what in held if what & REQUESTED],
        agents=[
            SimpleNamespace(
                x=cells[cell][1], y=cells[cell][0], dir=SimpleNamespace(name=HEADINGS[heading].upper()), carrying_shelf=loaded or None
            )
            for cell, heading, loaded in robots
        ],
    )
    return draw_warehouse(board, size)


def draw_warehouse(warehouse: Any, size: int) -> Picture:
    """A `Warehouse` of rware 2.0.0: shelves are brown and, while requested, yellow; a carried one has a rim of its agent's colour."""
    rows, cols = warehouse.grid_size
    cell, canvas = _board(rows, cols, size)
    for row in range(rows):
        for col in range(cols):
            canvas.box((col * cell, row * cell), (cell, cell), _FLOOR if warehouse.highways[row, col] else _STORE, LINES)
    for col, row in warehouse.goals:
        canvas.box((col * cell + 1, row * cell + 1), (cell - 2, cell - 2), _GOAL)
        canvas.text(((col + 0.5) * cell, (row + 0.5) * cell), "goal", 0.34 * cell, PAPER)
    wanted = {shelf.id for shelf in warehouse.request_queue}
    for shelf in warehouse.shelfs:
        corner = (shelf.x * cell + 0.08 * cell, shelf.y * cell + 0.08 * cell)
        is_wanted = shelf.id in wanted
        canvas.box(corner, (0.84 * cell, 0.84 * cell), _WANTED if is_wanted else _SHELF, INK if is_wanted else FAINT, round_by=2)
        if is_wanted:
            canvas.text(((shelf.x + 0.5) * cell, (shelf.y + 0.5) * cell), "!", 0.6 * cell)
    places = _share_cells([(int(agent.y), int(agent.x)) for agent in warehouse.agents], cell)
    for i, (place, agent) in enumerate(zip(places, warehouse.agents, strict=True)):
        if agent.carrying_shelf is not None:
            corner = (agent.x * cell + 0.02 * cell, agent.y * cell + 0.02 * cell)
            canvas.box(corner, (0.96 * cell, 0.96 * cell), line=colour_of(i), width=max(2.0, 0.1 * cell), round_by=2)
        small = Place(place.x, place.y, 0.75 * place.radius)
        _nose(canvas, small, agent.dir.name)
        canvas.badge((small.x, small.y), small.radius, i)
    return Picture(canvas.pixels(), tuple(places), numbered=True)


_HEADINGS: dict[str, Point] = {"UP": (0, -1), "DOWN": (0, 1), "LEFT": (-1, 0), "RIGHT": (1, 0)}


def _nose(canvas: Canvas, place: Place, direction: str) -> None:
    """A triangle that looks out from under the agent's disc."""
    dx, dy = _HEADINGS[direction]
    far, half = 1.9 * place.radius, 0.9 * place.radius
    tip, near = (place.x + far * dx, place.y + far * dy), 0.55 * place.radius
    foot = (place.x + near * dx, place.y + near * dy)
    canvas.polygon([tip, (foot[0] - half * dy, foot[1] + half * dx), (foot[0] + half * dy, foot[1] - half * dx)], INK)


def _tag(canvas: Canvas, at: Point, text: str, size: Length) -> None:
    wide, high = 1.35 * size, 1.15 * size
    canvas.box((at[0] - wide / 2, at[1] - high / 2), (wide, high), PAPER, INK, 0.75, round_by=2)
    canvas.text(at, text, size)


def _board(rows: int, cols: int, size: int) -> tuple[int, Canvas]:
    """The side of a cell and a canvas of whole cells, whose longer side is about `size`."""
    cell = max(12, size // max(rows, cols))
    return cell, Canvas(cols * cell + 1, rows * cell + 1)


def _share_cells(cells: Sequence[Cell], cell: Length) -> list[Place]:
    """A place for each agent, side by side and smaller where several stand on one cell."""
    residents: dict[Cell, list[int]] = defaultdict(list)
    for agent, where in enumerate(cells):
        residents[where].append(agent)
    places = []
    for agent, (row, col) in enumerate(cells):
        here = residents[(row, col)]
        share = cell / len(here)
        places.append(Place(col * cell + (here.index(agent) + 0.5) * share, (row + 0.5) * cell, 0.36 * share + 0.02 * cell))
    return places
