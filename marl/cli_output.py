"""What the command line prints: text for people on standard error, results on standard output, JSON instead when asked for."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .cli_options import Common


@runtime_checkable
class Writer(Protocol):
    """Where text goes: as much of a stream as is used here."""

    def write(self, text: str, /) -> Any: ...
    def flush(self) -> Any: ...


class Screen:
    """Where a command's words go."""

    def __init__(self, out: Writer, common: Common):
        self.out, self.common = out, common
        self.folder: Path | None = None
        """The run at work, once there is one: its run.log takes the trace of an internal error."""

    def keep_clean(self) -> AbstractContextManager[Any]:
        """With --json, what packages and tasks print goes to standard error, so that standard output holds JSON alone."""
        return redirect_stdout(sys.stderr) if self.common.json else nullcontext()

    def say(self, text: str) -> None:
        """Text for a person, unless --quiet."""
        if not self.common.quiet:
            print(text, file=sys.stderr, flush=True)

    def result(self, text: str) -> None:
        """What was asked for, as text."""
        if not self.common.json:
            print(text, file=self.out, flush=True)

    def document(self, content: Mapping[str, Any]) -> None:
        """What was asked for, as one JSON object on one line."""
        if self.common.json:
            print(to_json(content), file=self.out, flush=True)

    def log(self, text: str) -> None:
        """A dated line in the run's run.log; a disk that is full is told by what must be written, not by this."""
        if self.folder is not None:
            with suppress(OSError), open(self.folder / "run.log", "a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def to_json(content: Mapping[str, Any]) -> str:
    """One line of JSON with the schema's number; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite({"schema": 1, **content}), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns set in line, two blanks apart."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def number(value: float | None) -> str:
    """A figure for people: three significant digits, large ones in full."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def with_interval(value: float, interval: Sequence[float] | None) -> str:
    """`0.31 (0.28 to 0.34)`, or the value alone where it is exact or has no interval."""
    return number(value) if interval is None else f"{number(value)} ({number(interval[0])} to {number(interval[1])})"
