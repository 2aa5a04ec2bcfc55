"""What `train`, `resume` and several seeds have in common: one run shown on the screen, or one process per seed."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_options import Common
from .cli_output import Screen, Writer, number, with_interval
from .cli_progress import StopSignal, TrainView, catching_signals
from .errors import ConfigError

if TYPE_CHECKING:
    from .run import Run

Work = Callable[[Callable[[dict[str, Any]], None], StopSignal], "Run"]
"""Trains: given where events go, and what says that a signal came."""


def set_threads(count: int) -> None:
    """Threads of the tensor library, for this process, which is a command's own: its allocator is set as well."""
    import torch

    from .allocator import keep_freed_memory

    torch.set_num_threads(count)
    keep_freed_memory()


def watch(screen: Screen, work: Work, *, emit: bool = True) -> tuple["Run", dict[str, Any]]:
    """Do the work in view and under Ctrl-C; the run and its final event. `emit`: events are JSON lines with --json."""
    final: dict[str, Any] = {}

    with TrainView(screen, emit=emit) as view, catching_signals() as stop:

        def on_event(event: dict[str, Any]) -> None:
            view(event)
            if event["event"] == "done":
                final.update(event)

        run = work(on_event, stop)
    return run, final


def conclude(screen: Screen, run: "Run", final: dict[str, Any]) -> None:
    """The end of a training run, for a person: what it reached, where it lies, what to do next."""
    from .folder import find_checkpoint

    outcome = final["return"]
    screen.result(
        f"final return  {with_interval(outcome['mean'], outcome['interval'])} per episode: mean of {outcome['episodes']} "
        f"episodes and its 95% interval (episodes were resampled)\nrun folder    {run.folder}"
    )
    best = find_checkpoint(run.folder, "best")
    screen.say(f"best          {best.name}  (marl eval {run.folder}@best)")
    screen.say(f"next          marl eval {run.folder}\n              marl credit {run.folder}\n              marl lazy {run.folder}")


def conclude_seeds(screen: Screen, finals: Sequence[dict[str, Any]]) -> None:
    """One line over several seeds."""
    means = [final["return"]["mean"] for final in finals]
    screen.result(
        f"{len(means)} seeds  mean of their final returns {number(sum(means) / len(means))}, "
        f"lowest {number(min(means))}, highest {number(max(means))}"
    )


def refuse_one_seed(seeds: int) -> None:
    """ConfigError where --vectorize-seeds has nothing to stack."""
    if seeds < 2:
        raise ConfigError("--vectorize-seeds trains several seeds at once: name at least two", remedy="--seeds 0-9 --vectorize-seeds")


def seed_commands(
    options: Mapping[str, Any], common: Common, seeds: Sequence[int], out: Path | None, *, together: int | None
) -> dict[str, list[str]]:
    """The command of each process, by the seeds it trains: one seed each; or as many as an equal part of them, for `together` processes."""
    from .folder import seed_folder

    parts = [[seed] for seed in seeds] if together is None else [list(seeds[k::together]) for k in range(together)]
    commands = {}
    for part in filter(None, parts):
        names = ",".join(map(str, part))
        if len(part) == 1:
            commands[f"seed {names}"] = seed_command({**options, "seed": part[0], "out": seed_folder(out, part[0])}, common)
        else:
            commands[f"seeds {names}"] = [*seed_command({**options, "seeds": names, "out": out}, common), "--vectorize-seeds"]
    return commands


def seed_command(options: Mapping[str, Any], common: Common) -> list[str]:
    """The command line of one seed's own process."""
    words = ["train"] + ([options["task"]] if "task" in options else [])
    for key, value in options.items():
        if key.startswith("env."):
            words.append(f"--{key}={json.dumps(value)}")
        elif key != "task" and value is not None:
            words.append(f"--{key.replace('_', '-')}={value}")
    switches = [f"--{name}" for name in ("json", "quiet", "verbose") if getattr(common, name)]
    return [sys.executable, "-m", __name__.replace("cli_train", "cli"), *words, *switches, "--no-progress", f"--threads={common.threads}"]


def run_processes(screen: Screen, commands: dict[str, list[str]], *, jobs: int) -> int:
    """One `marl train` process per command, at most `jobs` at a time; the exit code of the first one that failed, else 0.

    Each has a session of its own, so that a Ctrl-C reaches it once, passed on from here.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs} must be at least 1")
    waiting, running, codes = list(commands), {}, {}
    lock = threading.Lock()
    with catching_signals() as stop:
        passed_on = False
        while running or (waiting and not passed_on):
            while waiting and len(running) < jobs and not passed_on:
                name = waiting.pop(0)
                running[name] = _Child(name, commands[name], screen, lock)
            for name, child in list(running.items()):
                if child.finished(within=0.1 / len(running)):
                    codes[name] = child.close()
                    del running[name]
            if stop() is not None and not passed_on:
                passed_on = True
                for child in running.values():
                    child.process.send_signal(stop() or signal.SIGTERM)
    failed = [codes[name] for name in commands if codes.get(name)]
    return failed[0] if failed else 0


class _Child:
    """A process; its lines appear whole, people's with its name before them, JSON as it is."""

    def __init__(self, name: str, command: list[str], screen: Screen, lock: threading.Lock):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        prefix = f"[{name}] "
        streams = (
            (self.process.stdout, screen.out, "" if screen.common.json else prefix),
            (self.process.stderr, sys.stderr, prefix),
        )
        self.readers = [threading.Thread(target=_pass_on, args=(*stream, lock)) for stream in streams]
        for reader in self.readers:
            reader.start()

    def finished(self, *, within: float) -> bool:
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> int:
        """The exit code, after its last line; a child killed by signal n counts as 128 + n."""
        for reader, stream in zip(self.readers, (self.process.stdout, self.process.stderr), strict=True):
            reader.join()
            assert stream is not None
            stream.close()
        code = self.process.returncode
        return code if code >= 0 else 128 - code


def _pass_on(source: Iterable[str], target: Writer, prefix: str, lock: threading.Lock) -> None:
    for line in source:
        with lock:
            target.write(prefix + line)
            target.flush()
