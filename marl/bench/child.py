"""A side in a process of its own: its libraries, their threads and their memory stay apart from ours.

The two speak JSON lines over the child's standard input and output; only one side works at a time. The child runs
`serve(make)`; the parent holds a `Child`, which is a side (clock.py).
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .clock import Side, Turn

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "PYTHONWARNINGS": "ignore",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
}
"""Environment of a side that shall use one thread."""


class SideFailed(RuntimeError):
    """A side's process ended instead of answering."""


class Child:
    """A running side.

    Args:
        command: the words of a program that calls `serve`; in front of them goes the interpreter.
        python: the interpreter (peers may live in an environment of their own); default: this one.

    Raises:
        SideFailed: the program ended; the message is the last line it wrote to standard error.
    """

    def __init__(self, command: Sequence[str], *, python: str | None = None, environ: Mapping[str, str] = ONE_THREAD):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the child)
        self._process = subprocess.Popen(
            [python or sys.executable, *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env={**os.environ, **environ},
        )  # fmt: skip
        self.facts: dict[str, Any] = self._read()
        """What the side says of itself: versions, seconds of compiling, ..."""

    def __call__(self, seconds: float) -> Turn:
        return Turn(**self._ask({"seconds": seconds}))

    def peak_memory(self) -> int:
        """Bytes of memory the process held at most so far."""
        return int(self._ask({"memory": True})["peak"])

    def close(self) -> None:
        """End the process; may be called twice."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: reading says why
            print(json.dumps(question), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        words = [text.strip() for text in self._errors.read().splitlines() if text.strip()]
        self.close()
        raise SideFailed(words[-1] if words else f"ended with exit code {self._process.returncode}")


def serve(make: Callable[[], tuple[Side, dict[str, Any]]]) -> None:
    """The child's loop: make the side, say its facts, then one turn for every question, until the parent has gone."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print must not mix with the answers
    side, facts = make()
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        answer = {"peak": peak_memory()} if "memory" in question else vars(side(question["seconds"]))
        print(json.dumps(answer), file=answers, flush=True)


def peak_memory() -> int:
    """Bytes of memory this process held at most so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would give a child at least what its parent held when it was started
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size
