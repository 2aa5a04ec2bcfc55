"""A picture of one moment of a task: its pixels, and where each agent stands in them. Colours and a canvas for those drawn here.

An agent is told apart by its colour and its number, which is its place on the agent axis. The first eight colours are
those of Okabe and Ito (2008) less black, then Tol's muted scheme (2021): sets made for colour-blind readers. No twenty colours
are distinct for everyone, which is why a number always goes with the colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Length = int | float
Point = tuple[Length, Length]

INK, FAINT, PAPER, LINES, ALARM = (34, 34, 34), (110, 110, 110), (255, 255, 255), (222, 222, 222), (200, 30, 30)
_COLOURS = (
    "0072B2 E69F00 009E73 CC79A7 D55E00 56B4E9 332288 F0E442 882255 44AA99 "
    "999933 222222 AA4499 117733 DDCC77 CC6677 7F7F7F 8B5A2B BBCC33 99DDFF"
)  # fmt: skip
COLOURS: tuple[Colour, ...] = tuple((int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)) for c in _COLOURS.split())


def colour_of(agent: int) -> Colour:
    """The colour of the agent at this place of the agent axis; after twenty they come again, the numbers do not."""
    return COLOURS[agent % len(COLOURS)]


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever reads better on `colour`."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else (255, 255, 255)


@dataclass(frozen=True)
class Place:
    """Where an agent is in a picture: a circle around it, in pixels from the top left corner; radius 0 where only its number fits."""

    x: Length
    y: Length
    radius: Length


@dataclass(frozen=True)
class Picture:
    """One moment."""

    pixels: UInt8[np.ndarray, "height width 3"]
    places: tuple[Place | None, ...] | None
    """Per agent, None for one that is not in the picture; None if nobody knows where this task's agents are."""
    numbered: bool = False
    """The pixels show the agents' colours and numbers already."""


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own typeface, so that pictures are the same on every machine; `size` in pixels."""
    chosen = ImageFont.load_default(size)
    assert isinstance(chosen, ImageFont.FreeTypeFont)
    return chosen


def text_width(text: str, size: Length) -> float:
    """Pixels that a line of text takes at this size."""
    return font(round(2 * size)).getlength(text) / 2


def shorten(text: str, size: Length, width: Length) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels; "" where not even that fits."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text and text + "…"


class Canvas:
    """Drawing at twice the size, so that edges are smooth once it is halved. All lengths are in pixels of the result."""

    def __init__(self, width: int, height: int, paper: Sequence[int] = PAPER):
        """`paper`: red, green, blue and, for a layer to lay over something else, alpha."""
        mode = "RGB" if len(paper) == 3 else "RGBA"
        self.image = Image.new(mode, (2 * width, 2 * height), tuple(paper))
        self.draw = ImageDraw.Draw(self.image)

    def finish(self) -> Image.Image:
        """The drawing at its true size."""
        return self.image.reduce(2)

    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        return np.array(self.finish())

    def box(
        self,
        corner: Point,
        size: Point,
        fill: Colour | None = None,
        line: Colour | None = None,
        width: Length = 1,
        round_by: Length = 0,
    ) -> None:
        """A rectangle from its top left corner."""
        (x, y), (w, h) = corner, size
        edges = (2 * x, 2 * y, 2 * (x + w), 2 * (y + h))
        self.draw.rounded_rectangle(edges, 2 * round_by, fill=fill, outline=line, width=round(2 * width) if line else 0)

    def disc(self, centre: Point, radius: Length, fill: Colour | None = None, line: Colour | None = None, width: Length = 1) -> None:
        """A disc; with `line` alone, a ring whose outer edge is at `radius`."""
        x, y = centre
        edges = (2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius))
        self.draw.ellipse(edges, fill=fill, outline=line, width=round(2 * width) if line else 0)

    def line(self, points: Sequence[Point], colour: Colour, width: Length = 1) -> None:
        self.draw.line([(2 * x, 2 * y) for x, y in points], fill=colour, width=round(2 * width), joint="curve")

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self.draw.polygon([(2 * x, 2 * y) for x, y in points], fill=fill)

    def text(self, at: Point, text: str, size: Length, colour: Colour = INK, anchor: str = "mm") -> None:
        """A line of text; `anchor` as Pillow names them: "mm" is centred on `at`, "lm" starts there."""
        self.draw.text((2 * at[0], 2 * at[1]), text, fill=colour, font=font(round(2 * size)), anchor=anchor)

    def badge(self, centre: Point, radius: Length, agent: int) -> None:
        """An agent's number on a disc of its colour."""
        self.coin(centre, radius, agent)
        self.number(centre, radius, agent)

    def coin(self, centre: Point, radius: Length, agent: int) -> None:
        """A disc of an agent's colour, with a light and a dark rim that stand out from any ground."""
        self.disc(centre, radius + 1.5, PAPER)
        self.disc(centre, radius, colour_of(agent), line=INK, width=0.75)

    def number(self, centre: Point, radius: Length, agent: int) -> None:
        """An agent's number, as large as fits a disc of this radius."""
        text = str(agent)
        size = min(1.25 * radius, 1.6 * radius * 10 / max(text_width(text, 10), 1.0))
        self.text(centre, text, size, ink_on(colour_of(agent)))
