"""Errors a user can cause, with the exit code, a stable kind for `--json`, and the remedy."""

import difflib
from collections.abc import Iterable


def suggest(name: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the closest known name, else ''; to stand behind a full stop."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {close[0]}?" if close else ""


class UserError(Exception):
    """Something a user can mend."""

    exit = 2
    kind = "usage"

    def __init__(self, message: str, *, remedy: str = ""):
        super().__init__(message)
        self.remedy = remedy


class ConfigError(UserError, ValueError):
    """A bad option, value, preset or configuration file."""

    kind = "config"


class RunNotFound(UserError):
    """No such run or checkpoint."""

    exit = 3
    kind = "run-not-found"


class CheckpointDamaged(UserError):
    """A checkpoint that is truncated, corrupt, or of another format."""

    exit = 3
    kind = "checkpoint-damaged"


class CheckpointIncompatible(UserError):
    """A checkpoint that does not fit the run it lies in, or lacks what is asked of it."""

    exit = 3
    kind = "checkpoint-incompatible"


class DiskError(UserError):
    """The disk is full or the run folder cannot be written."""

    exit = 4
    kind = "disk"


class Diverged(UserError):
    """A gradient that is NaN or infinite: the weights after it are no numbers any more, so nothing is saved of them."""

    kind = "diverged"

    def __init__(self, env_steps: int):
        super().__init__(
            f"training diverged before env step {env_steps}: a gradient is not finite; the checkpoints before are sound",
            remedy="train again with a lower --learner.lr, or with --learner.standardise-rewards",
        )


class Interrupted(UserError):
    """Stopped by a signal, after a checkpoint was written."""

    kind = "interrupted"

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit = 128 + signal_number
