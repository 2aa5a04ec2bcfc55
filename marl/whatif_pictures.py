"""Both worlds of a what-if side by side: on the left as played, on the right with the replaced action.

A film (.webp, .gif) goes from the step at which the worlds are divided to the end of the longer one; a .png is a strip: a few of
these moments from left to right, as played above, what if below.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from PIL import Image

from ..envs.errors import CannotRender
from ..envs.look import look
from ..envs.picture import PAPER
from .errors import BlankFrame, ConfigError
from .film import Reel, check_path, write_film, write_picture
from .overlay import Cast, Moment, compose, same_size
from .play import LONGEST_FILM, cast_of, picture_env, refuse_blank, without_display
from .two_worlds import Tick, Watch

if TYPE_CHECKING:
    from .run import Run

_SIDE, _GAP, _FPS, _COLUMNS = 480, 8, 6.0, 4


class Pictures:
    """Draws what goes through `watch`; a context within which nothing needs a display."""

    def __init__(self, run: "Run", path: Path, *, scale: int | float):
        if not 0.25 <= scale <= 4:
            raise ConfigError(f"--scale {scale:g} must lie between 0.25 and 4")
        check_path(path)
        self.run, self.path, self.scale = run, path, scale
        self.written: Path | None = None
        self.frames = 0
        self.agent = self.step = 0
        """Whose action is replaced, and when."""
        self.refusal = ""
        """Why the task cannot be drawn."""
        self._display = without_display()

    def __enter__(self) -> "Pictures":
        with ExitStack() as opened:  # the display is given back where the task cannot be made
            opened.enter_context(self._display)
            self.env = picture_env(self.run)
            opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.env.close()
        self._display.__exit__(kind, error, trace)

    def watch(self, tick: Tick, action: int, before: float) -> Watch | None:
        """What draws the worlds that are divided at `tick`; None where this task cannot be drawn."""
        try:
            refuse_blank(look(self.env, tick.at.state, size=self._size), self.env.spec.name, tick.at.number)
        except (CannotRender, BlankFrame) as refusal:
            self.refusal = str(refusal)
            return None
        own = None if tick.action is None else int(tick.action[0, self.agent])
        titles = (self._title("as played", own), self._title("what if", action))
        self._before = before
        self._casts = tuple(cast_of(self.env, self.run.team, title) for title in titles)
        return self._draw

    @property
    def _size(self) -> int:
        return max(1, round(_SIDE * self.scale))

    def _title(self, world: str, action: int | None) -> str:
        cast = cast_of(self.env, self.run.team, "")
        word = "" if action is None else cast.action(self.agent, action)
        return f"{world}: {self.env.spec.agents[self.agent]} {word} at step {self.step}"

    def _draw(self, worlds: Iterator[tuple[Tick, Tick]]) -> None:
        reel = Reel(self._frames(worlds))
        if self.path.suffix.lower() == ".png":
            count = min(_COLUMNS, reel.n_frames)
            chosen = [i * (reel.n_frames - 1) // max(count - 1, 1) for i in range(count)]
            write_picture(strip([reel.picture(i) for i in chosen]), self.path)
            self.frames = count
        else:
            write_film(reel, self.path, fps=_FPS)
            self.frames = reel.n_frames
        self.written = self.path

    def _frames(self, worlds: Iterator[tuple[Tick, Tick]]) -> Iterator[Image.Image]:
        earned, last, images = [self._before] * 2, list[Tick | None]([None, None]), list[Image.Image]()
        for number, pair in enumerate(worlds):
            if number > LONGEST_FILM:
                return
            for world, tick in enumerate(pair):
                if tick is last[world]:  # it has ended; its last picture stays
                    continue
                earned[world] += float(tick.at.step.reward) if number and tick.at.step is not None else 0.0
                image = self._image(tick, last[world], earned[world], self._casts[world])
                last[world] = tick
                images[world : world + 1] = [same_size(image, images[0].size if images else image.size)]
            yield beside(images)

    def _image(self, tick: Tick, before: Tick | None, earned: float, cast: Cast) -> Image.Image:
        now = None if tick.action is None else tuple(tick.action[0].tolist())
        last = None if before is None or before.action is None else tuple(before.action[0].tolist())
        step = tick.at.step
        moment = Moment(
            step=tick.at.number,
            picture=look(self.env, tick.at.state, now=now, last=last, size=self._size),
            now=now,
            alive=tuple(tick.at.view.alive[0].tolist()),
            reward=0.0 if step is None else float(step.reward),
            team_return=earned,
            agent_return=None,
            terminated=tick.at.end == "terminated",
            truncated=tick.at.end == "truncated",
        )
        return compose(moment, cast, scale=self.scale)


def beside(images: list[Image.Image]) -> Image.Image:
    """Pictures of one height from left to right."""
    whole = Image.new("RGB", (sum(image.width for image in images) + _GAP * (len(images) - 1), images[0].height), PAPER)
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + _GAP
    return whole


def strip(pairs: list[Image.Image]) -> Image.Image:
    """Moments from left to right, each with its left half above its right half."""
    width, height = (pairs[0].width - _GAP) // 2, pairs[0].height
    columns = []
    for pair in pairs:
        column = Image.new("RGB", (width, 2 * height + _GAP), PAPER)
        column.paste(pair.crop((0, 0, width, height)), (0, 0))
        column.paste(pair.crop((width + _GAP, 0, 2 * width + _GAP, height)), (0, height + _GAP))
        columns.append(column)
    return beside(columns)
