"""How a training run looks while it goes on: a bar on a terminal, plain lines elsewhere, JSON lines with --json."""

import os
import platform
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .cli_output import Screen, number, with_interval

PLAIN_LINE_EVERY = 10.0
"""Seconds between two plain lines."""


class StopSignal:
    """The first Ctrl-C or SIGTERM asks the run to save and stop at the end of its round; a second one stops at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> int | None:
        return self.number

    def receive(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # os.write, because print may have been interrupted in its own middle.
        os.write(2, b"\nstopping at the end of this round, then saving (once more: stop at once)\n")


@contextmanager
def catching_signals() -> Iterator[StopSignal]:
    """A StopSignal that listens inside the block; what listened before is back afterwards."""
    stop = StopSignal()
    before = {number: signal.signal(number, stop.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def versions() -> str:
    """What the run runs on, in a line."""
    from importlib.metadata import version

    import torch

    threads = torch.get_num_threads()
    return (
        f"teamcredit {version('teamcredit')}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"device cpu, {threads} thread{'s' if threads > 1 else ''}"
    )


class TrainView:
    """Shows the events of a run (marl/run.py) to a person and passes them on as JSON lines."""

    def __init__(self, screen: Screen, *, emit: bool = True):
        self.screen, self.emit = screen, emit
        self.began = self.last_line = time.monotonic()
        self.first_step = self.env_steps = self.steps = 0
        self.shown: dict[str, Any] = {"return": None, "epsilon": None, "loss": None}
        self.bar: Progress | None = None
        self.watched: tuple[int, float] | None = None
        """Env steps of the watch so far, and their share of training's own."""
        self.noted: set[str] = set()
        """Kinds of notes that looks have made so far, so that each is said once and not at every look."""

    def __enter__(self) -> "TrainView":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Takes in one event."""
        getattr(self, f"_on_{event['event']}")(event)
        if self.emit and event["event"] not in ("progress", "note"):
            self.screen.document({"run": str(self.screen.folder)} | event)

    def _on_start(self, event: dict[str, Any]) -> None:
        self.screen.folder = Path(event["run"])
        self.first_step = self.env_steps = event["env_steps"]
        self.steps = event["steps"]
        about = versions()
        self.screen.say(f"run folder  {event['run']}\n{about}")
        self.screen.log(f"start at {event['env_steps']} of {event['steps']} env steps; {about}")
        self.began = self.last_line = time.monotonic()
        if _has_bar(self.screen):
            self.bar = _make_bar()
            self.bar.add_task("train", total=self.steps, completed=self.env_steps, figures="")
            self.bar.start()

    def _on_note(self, event: dict[str, Any]) -> None:
        self.screen.say(event["text"])

    def _on_progress(self, event: dict[str, Any]) -> None:
        self.env_steps, self.shown["epsilon"] = event["env_steps"], event["epsilon"]
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=min(self.env_steps, self.steps), figures=self._figures())
        elif time.monotonic() - self.last_line >= PLAIN_LINE_EVERY:
            self._line()

    def _on_train(self, event: dict[str, Any]) -> None:
        self.shown["loss"] = event["loss"]
        if self.screen.common.verbose:
            figures = (f"{name} {number(value)}" for name, value in event.items() if isinstance(value, float) and "." not in name)
            self._print(f"{event['env_steps']:,} env steps  {'  '.join(figures)}")

    def _on_evaluation(self, event: dict[str, Any]) -> None:
        self.shown["return"] = event["return"]
        text = f"{with_interval(event['return'], event['interval'])} over {event['episodes']} episodes"
        self.screen.log(f"evaluation at {event['env_steps']} env steps: {text}")
        if self.bar is None and not event["final"]:
            self._line()

    def _on_credit(self, event: dict[str, Any]) -> None:
        self.watched = event["watch.env_steps"], event["watch.share"]
        kinds = kinds_of(event["note"])
        if self.screen.common.verbose or kinds - self.noted:
            self._print(f"watch       {event['note'] or 'looked'} ({event['watch.share']:.1%} more env steps so far)")
        self.noted |= kinds

    def _on_suspect(self, event: dict[str, Any]) -> None:
        if self.screen.common.verbose:
            self._on_lazy(event)

    _on_cleared = _on_undecided = _on_suspect

    def _on_lazy(self, event: dict[str, Any]) -> None:
        self.screen.log(f"{event['event']} at {event['env_steps']} env steps: {event['text']}")
        self._print(f"watch       {event['env_steps']:,} env steps: {event['text']}")

    _on_recovered = _on_cure = _on_lazy

    def _on_done(self, event: dict[str, Any]) -> None:
        self.screen.log(f"done at {event['env_steps']} env steps")
        if self.watched is not None:
            self._print(
                f"watch       {self.watched[0]:,} env steps were played to watch the agents: {self.watched[1]:.1%} of training's own"
            )

    def _line(self) -> None:
        self.last_line = time.monotonic()
        share = self.env_steps / max(self.steps, 1)
        self._print(f"{min(share, 1):4.0%}  {self.env_steps:,} of {self.steps:,} env steps  {self._figures()}")

    def _print(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            self.screen.say(text)

    def _figures(self) -> str:
        """Speed, time left, and the newest figures of learning."""
        seconds = max(time.monotonic() - self.began, 1e-6)
        speed = (self.env_steps - self.first_step) / seconds
        left = (self.steps - self.env_steps) / speed if speed else None
        parts = [f"{speed:,.0f} env steps/s", f"ETA {_clock(left)}"]
        return "  ".join(parts + [f"{name} {number(value)}" for name, value in self.shown.items() if value is not None])


def kinds_of(note: str | None) -> set[str]:
    """What a look's note is about, whatever its numbers: who is under suspicion, or how a look was cut."""
    found = set()
    for part in note.split("; ") if note else ():
        who, suspicion, _ = part.partition(" under suspicion")
        found.add(who if suspicion else re.sub("[0-9]+", "", part.partition(":")[0]))
    return found


def _has_bar(screen: Screen) -> bool:
    common = screen.common
    return sys.stderr.isatty() and not (common.quiet or common.no_progress or common.json or "NO_COLOR" in os.environ)


def _make_bar() -> Progress:
    return Progress(
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(stderr=True),
        refresh_per_second=4,
    )


def _clock(seconds: float | None) -> str:
    """90 seconds as 1:30."""
    if seconds is None:
        return "-"
    whole = max(round(seconds), 0)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
