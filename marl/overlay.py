"""The words and marks around a picture: what happens above it, every agent marked in it, and a legend of the agents below.

title, step, team reward so far, how it ended
the picture, with a ring and a number at each agent
per agent: its number and colour, name, the action it takes now, its own reward so far, whether it is alive
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageOps

from ..envs.picture import ALARM, FAINT, INK, LINES, PAPER, Canvas, Length, Picture, Place, Point, colour_of, shorten, text_width

MIN_WIDTH, MAX_SIDE = 480, 640
"""Pixels: the narrowest film (the legend needs it), and the longest side of a picture within it."""
_HEADER, _ROW, _MARGIN, _NOTE, _BADGE = 46, 20, 10, 20, 26
_CLEAR = (0, 0, 0, 0)


@dataclass(frozen=True)
class Cast:
    """What the legend says of a team that does not change during an episode."""

    title: str
    agents: tuple[str, ...]
    planted: Mapping[str, str]
    """agent name -> policy name."""
    action_names: tuple[tuple[str, ...], ...]
    episode_limit: int | None

    def name(self, agent: int) -> str:
        """The agent as it is called, a planted member with its policy."""
        name = self.agents[agent]
        return f"{name} = {self.planted[name]}" if name in self.planted else name

    def action(self, agent: int, action: int) -> str:
        """What the agent does, in a word; the number of an action without a name."""
        names = self.action_names[agent] if self.action_names else ()
        return names[action] if action < len(names) else str(action)


@dataclass(frozen=True)
class Moment:
    """One time step of an episode, as a film shows it."""

    step: int
    """Env steps done."""
    picture: Picture
    now: tuple[int, ...] | None
    """The joint action about to be taken; None at the end."""
    alive: tuple[bool, ...]
    reward: float
    """Team reward of the step that led here, 0 at the start."""
    team_return: float
    """Team reward so far, undiscounted, raw reward units."""
    agent_return: tuple[float, ...] | None
    """Each agent's own reward so far, where agents are paid by themselves."""
    terminated: bool
    truncated: bool


def compose(moment: Moment, cast: Cast, *, scale: int | float = 1.0) -> Image.Image:
    """A moment as one picture of a film; its size depends on the size of the moment's pixels and the number of agents alone."""
    frame, zoom = _fit(moment.picture, scale)
    if moment.picture.places is not None and not moment.picture.numbered:
        frame = _mark(frame, moment.picture.places, zoom)
    width = max(frame.width, MIN_WIDTH)
    header, legend = _header(moment, cast, width), _legend(moment, cast, width)
    whole = Image.new("RGB", (width, header.height + frame.height + legend.height), PAPER)
    whole.paste(header, (0, 0))
    whole.paste(frame, ((width - frame.width) // 2, header.height))
    whole.paste(legend, (0, header.height + frame.height))
    return whole


def same_size(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at a film's size, with paper beside it where its shape differs (an environment may render at several sizes)."""
    return image if image.size == size else ImageOps.pad(image, size, color=PAPER)


def _fit(picture: Picture, scale: int | float) -> tuple[Image.Image, int | float]:
    """The pixels at the film's size: large ones made smaller, tiny ones enlarged by whole numbers so that they stay crisp."""
    image = Image.fromarray(picture.pixels)
    if picture.numbered:  # drawn here, at the size that was asked for
        return image, 1.0
    longest = max(image.size)
    zoom = MAX_SIDE / longest if longest > MAX_SIDE else float(max(1, MIN_WIDTH // longest))
    zoom *= scale
    size = max(1, round(image.width * zoom)), max(1, round(image.height * zoom))
    method = Image.Resampling.NEAREST if zoom >= 1 and zoom.is_integer() else Image.Resampling.HAMMING
    return (image if size == image.size else image.resize(size, method)), zoom


def _mark(frame: Image.Image, places: Sequence[Place | None], zoom: int | float) -> Image.Image:
    """A ring around each agent and its number: in the ring where there is room, else beside it and clear of the other numbers."""
    layer = Canvas(frame.width, frame.height, _CLEAR)
    here = [(i, _zoomed(place, zoom)) for i, place in enumerate(places) if place is not None]
    for i, place in here:
        if place.radius == 0:
            continue
        centre = (place.x, place.y)
        layer.disc(centre, place.radius + 3.5, line=INK, width=1)
        layer.disc(centre, place.radius + 3, line=PAPER, width=1.5)
        layer.disc(centre, place.radius + 2, line=colour_of(i), width=3)
    taken: list[Point] = []
    for i, place in here:
        radius = 9.0 if place.radius < 20 else 11.0
        taken.append(_room_for_badge(place, radius, taken, frame.size))
        layer.badge(taken[-1], radius, i)
    marks = layer.finish()
    frame.paste(marks, (0, 0), marks)
    return frame


def _zoomed(place: Place, zoom: int | float) -> Place:
    """The place in the film's pixels, its ring never too small to be seen."""
    return Place(place.x * zoom, place.y * zoom, max(place.radius * zoom, 7.0) if place.radius else 0.0)


_AROUND = ((0.71, -0.71), (-0.71, -0.71), (0.71, 0.71), (-0.71, 0.71), (0, -1), (0, 1), (1, 0), (-1, 0))


def _room_for_badge(place: Place, radius: Length, taken: Sequence[Point], size: tuple[int, int]) -> Point:
    """Where the number goes: the first spot that covers no other number, going outwards from the agent."""
    width, height = size
    spots = [(place.x, place.y)] if place.radius > 1.4 * radius or place.radius == 0 else []
    for ring in range(1, 4):
        reach = place.radius + 0.6 * radius + (ring - 1) * 2 * radius
        spots += [(place.x + dx * reach, place.y + dy * reach) for dx, dy in _AROUND]
    inside = [(min(max(x, radius + 2), width - radius - 2), min(max(y, radius + 2), height - radius - 2)) for x, y in spots]
    free = (spot for spot in inside if all((spot[0] - x) ** 2 + (spot[1] - y) ** 2 >= (1.9 * radius) ** 2 for x, y in taken))
    return next(free, inside[0])


def _header(moment: Moment, cast: Cast, width: int) -> Image.Image:
    canvas = Canvas(width, _HEADER)
    canvas.text((_MARGIN, 14), shorten(cast.title, 13, width - 2 * _MARGIN), 13, FAINT, "lm")
    limit = f" of {cast.episode_limit}" if cast.episode_limit else ""
    last = f"   last step {_number(moment.reward)}" if moment.step else ""
    canvas.text((_MARGIN, 33), f"step {moment.step}{limit}   team reward so far {_number(moment.team_return)}{last}", 14, INK, "lm")
    if moment.terminated or moment.truncated:
        canvas.text((width - _MARGIN, 33), "terminated" if moment.terminated else "truncated", 14, ALARM, "rm")
    return canvas.finish()


@dataclass(frozen=True)
class _Fields:
    """How the legend is laid out: columns of agents, and in each the field borders from its left edge."""

    columns: int
    text: Length
    borders: tuple[Length, ...]


def _lay_out(cast: Cast, width: int, *, paid: bool) -> _Fields:
    """As many columns as hold whole names; a long list is never set in one column, but cut."""
    count = len(cast.agents)
    text = 13 if count <= 4 else 12
    name = max(text_width(cast.name(i), text) for i in range(count)) + 6
    actions = [word for names in cast.action_names for word in names] or ["00"]
    action = min(max(text_width(word, text) for word in ["dead", *actions]), 110) + 8
    reward = text_width("-999.99", text) + 4 if paid else 0.0
    wanted = 1 if count <= 4 else 2 if count <= 24 else 3
    room = (width - 2 * _MARGIN) // max(1, wanted)
    columns = wanted if count > 10 or room >= _BADGE + name + action + reward else 1
    column = (width - 2 * _MARGIN) / columns
    name = min(name, column - _BADGE - action - reward) if columns > 1 else max(name, 0.46 * column)
    borders = (_BADGE, _BADGE + name, *((column - reward,) if paid else ()), column)
    return _Fields(columns, text, borders)


def _legend(moment: Moment, cast: Cast, width: int) -> Image.Image:
    count, known = len(cast.agents), moment.picture.places is not None
    fields = _lay_out(cast, width, paid=moment.agent_return is not None)
    rows = -(-count // fields.columns)
    height = _MARGIN + _ROW * (rows + 1) + (0 if known else _NOTE) + _MARGIN // 2
    canvas = Canvas(width, height)
    canvas.line([(0, 1), (width, 1)], LINES, 1)
    column = (width - 2 * _MARGIN) / fields.columns
    for first in range(fields.columns):
        for start, text in zip(fields.borders, ("agent", "action", "reward")[: len(fields.borders) - 1], strict=False):
            canvas.text((_MARGIN + first * column + start, _MARGIN + 4), text, 11, FAINT, "lm")
    for i in range(count):
        corner = (_MARGIN + (i // rows) * column, _MARGIN + _ROW * (1 + i % rows))
        _legend_row(canvas, corner, fields, i, moment, cast)
    if not known:
        note = "Where the agents stand is not known: this environment has no locate(agent)."
        canvas.text((_MARGIN, height - _NOTE / 2 - 3), shorten(note, 11, width - 2 * _MARGIN), 11, FAINT, "lm")
    return canvas.finish()


def _legend_row(canvas: Canvas, corner: Point, fields: _Fields, agent: int, moment: Moment, cast: Cast) -> None:
    left, middle = corner[0], corner[1] + _ROW / 2
    alive = moment.alive[agent]
    canvas.badge((left + 10, middle), 8, agent)
    action = "dead" if not alive else "-" if moment.now is None else cast.action(agent, moment.now[agent])
    words = [cast.name(agent), action]
    if moment.agent_return is not None:
        words.append(_number(moment.agent_return[agent]))
    for (start, end), word in zip(pairwise(fields.borders), words, strict=False):
        canvas.text((left + start, middle), shorten(word, fields.text, end - start - 4), fields.text, INK if alive else FAINT, "lm")
    if not alive:
        for colour, width in ((PAPER, 4), (ALARM, 2)):
            canvas.line([(left + 1, middle + 6), (left + 19, middle - 6)], colour, width)


def _number(value: float) -> str:
    """Two digits after the point, three below 1, none above 1,000: never wider than -999.99 below a million."""
    if value == 0:
        return "0"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"
