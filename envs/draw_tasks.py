"""Pictures of native spread, of matrix games and of the two-step game, from their states.

`now` is the joint action about to be taken (None after the last step), `last` the one that led here (None at a reset).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .matrix import MatrixGame
from .picture import ALARM, FAINT, INK, LINES, PAPER, Canvas, Colour, Length, Picture, Place, Point, shorten
from .spread import CONTACT_DISTANCE, SpreadTask
from .two_step import PAYOFF, TwoStepTask

Joint = Sequence[int] | None

_HEADINGS: tuple[Point, ...] = ((0, 0), (-1, 0), (1, 0), (0, 1), (0, -1))  # of spread's actions, y downwards as in pictures
_CHOSEN = (255, 214, 102)


def draw_spread(task: SpreadTask, row: int, now: Joint, size: int) -> Picture:
    """Agents as discs with an arrow where they push, landmarks as crosses, a red rim on colliding ones; all start in the square."""
    agents, landmarks = task.position[row], task.landmark[row]
    furthest = float(torch.cat((agents, landmarks)).abs().max())
    reach = max(1.2, furthest + CONTACT_DISTANCE)
    scale = size / (2 * reach)
    to_pixels = [[(size / 2 + x * scale, size / 2 - y * scale) for x, y in points.tolist()] for points in (agents, landmarks)]
    centres, crosses = to_pixels
    radius = CONTACT_DISTANCE / 2 * scale

    canvas = Canvas(size, size)
    canvas.box((size / 2 - scale, size / 2 - scale), (2 * scale, 2 * scale), line=LINES)
    distance = torch.cdist(agents, agents)
    touching = [[j for j in range(len(centres)) if j != i and distance[i, j] < CONTACT_DISTANCE] for i in range(len(centres))]
    for i, centre in enumerate(centres):
        if touching[i]:
            canvas.disc(centre, radius + 4, line=ALARM, width=4)
    for i, centre in enumerate(centres):
        canvas.coin(centre, radius, i)
        if now is not None and now[i]:
            _arrow(canvas, centre, _HEADINGS[now[i]], radius)
    arm = max(5.0, radius / 4)
    for colour, width in ((PAPER, 6), (INK, 3)):  # over the discs, so that a covered landmark shows
        for x, y in crosses:
            for rise in (-arm, arm):
                canvas.line([(x - arm, y - rise), (x + arm, y + rise)], colour, width)
    for i, centre in enumerate(centres):
        near = [centres[j] for j in touching[i]] + [cross for cross in crosses if math.dist(cross, centre) < radius]
        if near:
            canvas.number(_clear_of(centre, near, 0.45 * radius), 0.7 * radius, i)
        else:
            canvas.number(centre, radius, i)
    return Picture(canvas.pixels(), tuple(Place(x, y, radius) for x, y in centres), numbered=True)


def _clear_of(centre: Point, others: Sequence[Point], shift: Length) -> Point:
    """`shift` away from the others' middle, where a disc that they cover still shows."""
    middle = [sum(axis) / len(others) for axis in zip(*others, strict=True)]
    dx, dy = centre[0] - middle[0], centre[1] - middle[1]
    length = math.hypot(dx, dy) or 1.0
    return centre[0] + shift * dx / length, centre[1] + shift * dy / length


def _arrow(canvas: Canvas, centre: Point, heading: Point, radius: Length) -> None:
    """A triangle on the rim that points where the agent pushes."""
    (x, y), (dx, dy) = centre, heading
    near, far, half = radius + 3, radius + 3 + max(6.0, radius / 3), max(4.5, radius / 4)
    corners = [(x + far * dx, y + far * dy), (x + near * dx - half * dy, y + near * dy + half * dx)]
    canvas.polygon([*corners, (x + near * dx + half * dy, y + near * dy - half * dx)], INK)


def draw_matrix(game: MatrixGame, now: Joint, last: Joint, size: int) -> Picture:
    """The payoff of the first two agents' actions, the chosen cell marked; the others' actions as they are, said above."""
    chosen = now if now is not None else last
    payoff, others = game.payoff, range(2, game.spec.num_agents)
    fixed = [0 if chosen is None else chosen[i] for i in others]
    table = payoff[(slice(None), slice(None), *fixed)]
    rows, cols = table.shape
    height = min(size, round(110 + (size - 90) * rows / max(cols, 4)))
    canvas = Canvas(size, height)
    verb = "is played" if now is not None else "was played"
    caption = "" if chosen is None else f"{verb}: {', '.join(map(str, chosen))} pays {payoff[tuple(chosen)]:g}"
    canvas.text((size / 2, 16), caption, 14)
    if others:
        where = ", ".join(f"agent {i} plays {action}" for i, action in zip(others, fixed, strict=True))
        canvas.text((size / 2, 34), shorten(f"payoff where {where}", 12, size - 20), 12, FAINT)
    badges = _payoff_table(canvas, (70, 90), (size - 80, height - 100), table, None if chosen is None else (chosen[0], chosen[1]))
    return Picture(canvas.pixels(), (*badges, *[None] * len(others)), numbered=True)


def draw_two_step(task: TwoStepTask, row: int, now: Joint, last: Joint, size: int) -> Picture:
    """State 1 above, the tables of 2A and 2B below; the present state is framed and the chosen cell marked."""
    place, chosen = int(task.place[row]), now if now is not None else last
    height = round(0.8 * size)
    canvas = Canvas(size, height)
    pair = None if chosen is None else (chosen[0], chosen[1])
    half, top = size / 2, 10.0
    upper, lower = 0.36 * height, 0.64 * height
    _panel(canvas, (size / 4, top), (half, upper - 2 * top), "state 1: agent 0 chooses where to", place == 0)
    for action, name in enumerate(("2A", "2B")):
        is_chosen = place == 0 and pair is not None and pair[0] == action
        corner = (size / 4 + 50, top + 26 + action * (upper - 60) / 2)
        canvas.box(corner, (half - 66, (upper - 68) / 2), _CHOSEN if is_chosen else (246, 246, 246), INK if is_chosen else LINES, 2)
        canvas.text((corner[0] + half / 2 - 33, corner[1] + (upper - 68) / 4), f"{action}: to state {name}", 14)
        if is_chosen:
            canvas.badge((size / 4 + 26, corner[1] + (upper - 68) / 4), 12, 0)
    places: tuple[Place | None, ...] = (None, None)
    for which, name in ((1, "2A"), (2, "2B")):
        corner = (8 + (which - 1) * half, upper)
        here = place == which
        _panel(canvas, corner, (half - 16, lower - 12), f"state {name}", here)
        drawn = _payoff_table(canvas, (corner[0] + 52, upper + 70), (half - 82, lower - 96), PAYOFF[which], pair if here else None)
        places = drawn if here else places
    return Picture(canvas.pixels(), places, numbered=True)


def _panel(canvas: Canvas, corner: Point, size: Point, title: str, here: bool) -> None:
    canvas.box(corner, size, PAPER, INK if here else LINES, 3 if here else 1, round_by=6)
    canvas.text((corner[0] + size[0] / 2, corner[1] + 13), title, 13, INK if here else FAINT)


def _payoff_table(
    canvas: Canvas, corner: Point, size: Point, payoff: Float[Tensor, "first second"], chosen: tuple[int, int] | None
) -> tuple[Place | None, Place | None]:
    """Agent 0's actions down, agent 1's across, darker cells pay more; returns the two badges beside the chosen cell."""
    (left, top), (rows, cols) = corner, payoff.shape
    wide, high = size[0] / cols, size[1] / rows
    low, span = float(payoff.min()), float(payoff.max() - payoff.min()) or 1.0
    letters = min(20.0, 0.45 * high, 0.3 * wide)
    small = min(13.0, max(7.0, 0.5 * high, 0.4 * wide))
    for i in range(rows):
        canvas.text((left - 8, top + (i + 0.5) * high), str(i), small, FAINT, "rm")
        for j in range(cols):
            value = float(payoff[i, j])
            at = (left + j * wide, top + i * high)
            canvas.box(at, (wide, high), _shade((value - low) / span), PAPER)
            canvas.text((at[0] + wide / 2, at[1] + high / 2), f"{value:g}", letters)
    for j in range(cols):
        canvas.text((left + (j + 0.5) * wide, top - 10), str(j), small, FAINT)
    if chosen is None:
        return None, None
    i, j = chosen
    canvas.box((left + j * wide, top + i * high), (wide, high), line=INK, width=4)
    radius = 11.0
    centres = (left - 37, top + (i + 0.5) * high), (left + (j + 0.5) * wide, top - 30)
    for agent, centre in enumerate(centres):
        canvas.badge(centre, radius, agent)
    return Place(*centres[0], radius), Place(*centres[1], radius)


def _shade(level: Length) -> Colour:
    """From nearly white (the worst payoff) to a middle blue (the best); text stays legible on all of it."""
    light, dark = (247, 250, 253), (126, 176, 222)
    red, green, blue = (round(a + (b - a) * level) for a, b in zip(light, dark, strict=True))
    return red, green, blue
