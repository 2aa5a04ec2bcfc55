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


class BlankFrame(UserError):
    """An environment rendered a frame of one single colour: its renderer has nothing to draw with."""

    exit = 4
    kind = "blank-frame"


class Diverged(UserError):
    """A gradient that is NaN or infinite: the weights after it are no numbers any more, so nothing is saved of them."""

    kind = "diverged"

    def __init__(self, env_steps: int, *, where: str = "", others: str = ""):
        """`where` stands before the sentence, `others` behind it: of which run it is, and how others beside it fare."""
        self.env_steps = env_steps
        super().__init__(
            f"{where}training diverged before env step {env_steps}: a gradient is not finite; the checkpoints before are sound{others}",
            remedy="train again with a lower --learner.lr, or with --learner.standardise-rewards",
        )


class TooFarOffPolicy(UserError):
    """Importance sampling of stored joint actions rests on too few of them."""

    kind = "off-policy"

    def __init__(self, share: float, ratio: float, floor: float, env_steps: int):
        samples = "of the samples learned from"
        low = f"the effective sample size is {share:.1%} {samples}"
        if share >= floor:
            low = f"the mean importance ratio {samples} is {ratio:.2g}, and should be 1,"
        super().__init__(
            f"coma.actions stored: {low} up to env step {env_steps}, below "
            f"coma.ess_floor {floor:g}: the stored joint actions come from policies too far from the current ones",
            remedy="--coma.actions resampled (needs no ratio), --sampling split (fresh batches), a smaller --replay.capacity, "
            "a lower --learner.lr, or a lower --coma.ess-floor",
        )


class WorkerLost(UserError):
    """A worker process died in training, and the last whole round was saved."""

    exit = 4
    kind = "worker-died"

    def __init__(self, died: Exception, why: str, *, env_steps: int, folder: str):
        """`died`: the sentence that names the worker; `why`: what may be done about it."""
        remedy = f"marl resume {folder}"
        super().__init__(f"{died} ({why}). Saved at {env_steps} env steps. Go on with: {remedy}", remedy=remedy)


class LazyAgent(UserError):
    """An agent was found lazy in training and --on-lazy stop was said; saved. Like `marl lazy --check`, the answer is no."""

    exit = 1
    kind = "lazy-agent"


class Interrupted(UserError):
    """Stopped by a signal, after a checkpoint was written."""

    kind = "interrupted"

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit = 128 + signal_number
