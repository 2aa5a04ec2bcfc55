"""The runs of several seeds that train together: a folder each, as if each had been trained alone."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from . import checkpoint as checkpoints
from .errors import ConfigError, Diverged, Interrupted, UserError
from .folder import Event, Logbook, new_folder, seed_folder
from .resolve import Resolved
from .rounds import Rounds
from .run import Run, configure, make_env, probe, settings_line
from .seeds import Together
from .watching import make_watcher


def train_seeds(
    task: str,
    *,
    seeds: Sequence[int],
    algo: str | None = None,
    steps: int | str | None = None,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    on_event: Event | None = None,
    stop_signal: Callable[[], int | None] = lambda: None,
) -> list[Run]:
    """`train` for several seeds at once, on a native task; the runs in order of the seeds. `out` is the folder of the run folders."""
    named = {name: value for name, value in (("algo", algo), ("steps", steps)) if value is not None}
    layers = [configure(preset=preset, options={**(options or {}), **named, "task": task, "seed": seed}) for seed in seeds]
    return start_together(layers, out=None if out is None else Path(out), on_event=on_event, stop_signal=stop_signal)


def start_together(
    layers: Sequence[Resolved],
    *,
    out: Path | None = None,
    on_event: Event | None = None,
    stop_signal: Callable[[], int | None] = lambda: None,
) -> list[Run]:
    """Train configurations that differ in their seed alone. Every event says its `run` and `seed` (but for lines for people).

    Raises:
        ConfigError: a part is not vectorised; nothing was written. Interrupted: a signal came; every seed is saved.
        Diverged: some seed's gradient was not finite, said after the other seeds have finished.
    """
    tell = on_event or (lambda event: None)
    env = make_env(layers[0].config)
    probe(env)

    def say(text: str) -> None:
        tell({"event": "note", "text": text})

    if layers[0].config.watch.on_lazy != "warn":
        raise ConfigError(
            f"--vectorize-seeds: --on-lazy {layers[0].config.watch.on_lazy} concerns one seed, and all of them move together",
            remedy="--jobs 2 instead: a process per seed, two at a time",
        )
    make_watcher(layers[0].config, env)
    together = Together([resolved.config for resolved in layers], env, announce=say)
    say(settings_line(layers[0]))
    folders = _new_folders(layers, out)
    with ExitStack() as stack:
        rounds = []
        for folder, trainer in zip(folders, together.trainers, strict=True):
            heard = _marked(tell, folder, trainer.config.seed)
            logbook = stack.enter_context(Logbook(folder / "metrics.jsonl", heard, seconds=0.0))
            rounds.append(Rounds(folder, trainer, logbook, on_event=heard, stop_signal=stop_signal, meta=None))
        _finish(together, rounds, stop_signal)
        for each in rounds:
            result = json.loads((each.folder / "result.json").read_text())
            each.on_event({"event": "done", "schema": 1, **result})
    return [Run(each.folder, each.config, checkpoints.latest(each.folder / "checkpoints")) for each in rounds]


def _finish(together: Together, rounds: list[Rounds], stop_signal: Callable[[], int | None]) -> None:
    """All rounds, and after each what is due on every seed. A seed that diverges is left alone from there on."""
    lost: dict[Path, Diverged] = {}
    for each in rounds:
        each.begin()
    while not together.finished and len(lost) < len(rounds):
        together.round()
        for each in rounds:
            if each.folder not in lost:
                try:
                    each.after_round()
                except Diverged as error:
                    lost[each.folder] = error
        signal_number = stop_signal()
        if signal_number is not None and not together.finished:
            left = [each for each in rounds if each.folder not in lost]
            for each in left:
                each.save()
            raise _interrupted(signal_number, left)
    for each in rounds:
        if each.folder not in lost:
            each.end()
    for folder, error in lost.items():
        others = _fate(len(rounds) - len(lost))
        raise Diverged(error.env_steps, where=f"{folder}: ", others=others)


def _fate(finished: int) -> str:
    """Of the seeds that did not diverge."""
    return {0: "; no seed is left", 1: "; the other 1 seed is finished"}.get(finished, f"; the other {finished} seeds are finished")


def _interrupted(signal_number: int, left: Sequence[Rounds]) -> UserError:
    at, names = left[0].trainer.counters.env_steps, "; ".join(f"marl resume {each.folder}" for each in left)
    return Interrupted(signal_number, f"stopped at {at} env steps; every seed is saved. Go on with each by itself: {names}")


def _marked(tell: Event, folder: Path, seed: int) -> Event:
    return lambda event: tell({**event, "run": str(folder), "seed": seed})


def _new_folders(layers: Sequence[Resolved], out: Path | None) -> list[Path]:
    """A fresh folder per seed; none where one of them cannot be made."""
    folders: list[Path] = []
    try:
        for resolved in layers:
            folders.append(new_folder(resolved, seed_folder(out, resolved.config.seed)))
    except UserError:
        for folder in folders:
            shutil.rmtree(folder)
        raise
    return folders
