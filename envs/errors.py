"""What can go wrong with a task before or while it runs, each with a kind for programs and a remedy for people.

`str(error)` is the whole sentence as the command line prints it; `error.kind` is a stable word for `--json`;
`error.remedy` is what to do about it, on its own.
"""

import difflib
import signal
from collections.abc import Iterable, Sequence


class UnknownTask(ValueError):
    """No task has this id."""

    kind = "unknown-environment"

    def __init__(self, task: str, known: Iterable[str] = (), *, reason: str = ""):
        """`known`: ids to suggest from; `reason`: what is wrong with the id, where more is known than its absence."""
        suggestion = did_you_mean(task, known)
        self.task = task
        if reason:
            self.remedy = suggestion or "Write the id as marl envs list shows it, or module:function of a module that can be imported here."
            super().__init__(f"{reason} {suggestion}".strip())
        else:
            self.remedy = f"{suggestion} All tasks: marl envs list".strip()
            sentence = f'no environment "{task}". {suggestion}'.strip()
            super().__init__(f"{sentence}   (marl envs list)")


class MissingPackage(ImportError):
    """The task needs a package which is not installed."""

    kind = "missing-extra"

    def __init__(self, requirement: str):
        """`requirement`: what pip installs, such as pettingzoo[sisl]."""
        self.requirement = requirement
        self.remedy = f'pip install "{requirement}"'
        super().__init__(f"package missing: {self.remedy}")


class UnsupportedTask(ValueError):
    """The task is sound, but not one these learners can be trained on."""

    kind = "unsupported-environment"

    def __init__(self, problem: str, remedy: str):
        self.remedy = remedy
        super().__init__(f"{problem} {remedy}")


class CannotRender(UnsupportedTask):
    """The task gives no picture of itself."""

    kind = "cannot-render"


class ContractBroken(ValueError):
    """An environment does what its interface forbids; `rule` is the name of the broken rule."""

    kind = "environment-contract"

    def __init__(self, rule: str, sentence: str, remedy: str = "Correct the environment; `marl envs check` lists every broken rule."):
        self.rule = rule
        self.sentence = sentence
        self.remedy = remedy
        super().__init__(f"{rule}: {sentence}")


class WorkerDied(RuntimeError):
    """A worker process ended while it was needed (envs/vector.py)."""

    kind = "worker-died"

    def __init__(self, worker: str, task: str, code: int, doing: str | None, others: Sequence[str] = ()):
        """`code`: exit code, -n for signal n; `doing`: the copy it was moving, None where it had not begun; `others`: its other copies."""
        names = {int(known): known.name for known in signal.Signals}
        how = f"was killed by {names.get(-code, f'signal {-code}')}" if code < 0 else f"ended by itself with exit code {code}"
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        what = f"while it moved {doing}" if doing else f"before it could move {shown}"
        also = f"; with it went {shown}" if doing and shown else ""
        self.remedy = (
            "the system kills so when memory runs out: use fewer workers, fewer copies, or --workers 0"
            if code == -signal.SIGKILL
            else "with --workers 0 it runs in this process, where its own error shows"
        )
        super().__init__(f"{task}: {worker} {how} {what}{also}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'Did you mean X?' for the closest known name (whole ids and their last parts are compared), else ''."""
    known = list(known)
    last_parts = {entry.rsplit("/", 1)[-1]: entry for entry in reversed(known)}
    close = difflib.get_close_matches(name, known, n=1) or [
        last_parts[part] for part in difflib.get_close_matches(name, list(last_parts), n=1)
    ]
    return f"Did you mean {close[0]}?" if close else ""
