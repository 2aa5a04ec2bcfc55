"""From an exception to an exit code, a kind for programs, and one sentence for people.

0 ok · 1 the answer is no · 2 usage, configuration, unknown task · 3 run or checkpoint missing or damaged
4 a package, the disk or a worker process is missing · 70 internal error · 130, 143 stopped by Ctrl-C or SIGTERM, after saving
"""

import os
import signal
import sys
import traceback
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cyclopts import CycloptsError

from ..envs.errors import ContractBroken, MissingPackage, UnknownTask, UnsupportedTask, WorkerDied
from .cli_output import Screen, Writer, to_json
from .errors import UserError

OK, NO, USAGE, MISSING, INTERNAL = 0, 1, 2, 4, 70
_PACKAGE = Path(__file__).resolve().parents[1]
_CALLERS_OF_TASKS = {
    _PACKAGE / "envs" / name
    for name in (
        "live.py",
        "layout.py",
        "packages.py",
        "own.py",
        "images.py",
        "check_parallel.py",
        "pettingzoo.py",
        "crew.py",
        "look.py",
        "markers.py",
    )
}
"""Where other people's tasks are called: what raises below these is theirs."""
_CALLERS_OF_ESTIMATORS = {_PACKAGE / "credit" / "benchmark.py"}
"""Likewise of credit estimators."""


@dataclass(frozen=True)
class Failure:
    """What a person or a program is told."""

    exit: int
    kind: str
    message: str
    remedy: str = ""


def explain(error: BaseException) -> Failure | None:
    """What to say of an expected error; None for one that is our own mistake."""
    if isinstance(error, CycloptsError):
        return Failure(USAGE, "usage", _usage_message(error), _usage_remedy(error))
    if isinstance(error, UserError):
        return Failure(error.exit, error.kind, str(error), error.remedy)
    if isinstance(error, MissingPackage | WorkerDied):
        return Failure(MISSING, error.kind, str(error), error.remedy)
    if isinstance(error, UnknownTask | UnsupportedTask | ContractBroken):
        return Failure(USAGE, error.kind, str(error), error.remedy)
    if isinstance(error, KeyboardInterrupt):
        return Failure(128 + signal.SIGINT, "interrupted", "stopped at once; what was saved before is whole")
    if isinstance(error, ValueError) and _raised_here(error):
        return Failure(USAGE, "config", str(error))
    return None


def sentence(failure: Failure) -> str:
    """The failure on standard error; the remedy in brackets, unless the message says it already."""
    brackets = f"   ({failure.remedy})" if failure.remedy and failure.remedy not in failure.message else ""
    return f"error: {failure.message}{brackets}"


class Reporter:
    """Turns what a command raises into its exit code; the one place where an unexpected exception ends.

    A context manager and not a broad `except`, because it must never swallow an error and go on: whatever comes out of the
    block ends the command, our own mistakes with exit code 70 and their trace in a file.
    """

    def __init__(self, out: Writer, *, json: bool):
        self.out, self.json = out, json
        self.code = OK
        self.screen: Screen | None = None

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if error is None or isinstance(error, SystemExit | GeneratorExit):
            return False
        if isinstance(error, BrokenPipeError):  # the reader of our output has left (marl ... | head): end as other programs do
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            self.code = 128 + signal.SIGPIPE
            return True
        failure = explain(error) or self._internal(error)
        self.code = failure.exit
        if self.screen is not None:
            self.screen.log(sentence(failure))
        if self.json:
            print(to_json({"error": vars(failure)}), file=self.out, flush=True)
        else:
            print(_as_printed(failure, error), file=sys.stderr, flush=True)
        return True

    def _internal(self, error: BaseException) -> Failure:
        """Keeps the trace; one line for the screen."""
        folder = None if self.screen is None else self.screen.folder
        path = Path("marl-error.log") if folder is None else folder / "run.log"
        text = "".join(traceback.format_exception(error))
        with open(path, "a") as file:
            file.write(text)
        if self.screen is not None and self.screen.common.verbose:
            print(text, file=sys.stderr)
        if (place := _place_in(error, _CALLERS_OF_ESTIMATORS)) is not None:
            message = f"the estimator's own code fails: {type(error).__name__}: {error}{place}. The trace is in {path}"
            return Failure(USAGE, "estimator-failed", message, "correct the estimator")
        if (place := _place_in(error, _CALLERS_OF_TASKS)) is not None:
            message = f"the environment's own code fails: {type(error).__name__}: {error}{place}. The trace is in {path}"
            return Failure(USAGE, "environment-failed", message, "correct the environment")
        return Failure(INTERNAL, "internal", f"internal error: {type(error).__name__}: {error}. The trace is in {path}", "please report it")


def _as_printed(failure: Failure, error: BaseException) -> str:
    # The sentences of envs/errors.py hold their remedy in other words already.
    holds_remedy = isinstance(error, UnknownTask | UnsupportedTask | ContractBroken | MissingPackage)
    return f"error: {failure.message}" if holds_remedy else sentence(failure)


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where it came from; for what was raised in a worker process (envs/worker.py), where it came from there."""
    there = getattr(error, "frames_in_worker", None)
    return list(traceback.extract_tb(error.__traceback__)) if there is None else [traceback.FrameSummary(*frame) for frame in there]


def _raised_here(error: BaseException) -> bool:
    """Whether the line that raised is ours (a rule for users), not a library's (our mistake, or a task's)."""
    frames = _frames(error)
    return bool(frames) and Path(frames[-1].filename).resolve().is_relative_to(_PACKAGE)


def _place_in(error: BaseException, callers: Set[Path]) -> str | None:
    """Where the code of a task or an estimator raised, called by ours: " (file.py, line 3, in step)"; None for a mistake of our own."""
    frames = _frames(error)
    ours = [position for position, frame in enumerate(frames) if Path(frame.filename).resolve().is_relative_to(_PACKAGE)]
    if not ours or ours[-1] == len(frames) - 1 or Path(frames[ours[-1]].filename).resolve() not in callers:
        return None
    last = frames[-1]
    return "" if isinstance(error, SyntaxError) else f" ({Path(last.filename).name}, line {last.lineno}, in {last.name})"


def _usage_message(error: CycloptsError) -> str:
    error.verbose = False
    text = str(error).strip().replace("Unused Tokens: ", "too many arguments: ")
    return text[:1].lower() + text[1:]


def _usage_remedy(error: CycloptsError) -> str:
    return " ".join(["marl", *(error.command_chain or ()), "--help"])
