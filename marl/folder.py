"""The run folder on disk: found, made, named, and its small files read and written whole.

config.yaml    resolved options         metrics.jsonl  one JSON line per record, appended and flushed
sources.yaml   where each came from     checkpoints/   step_*/ (safetensors and JSON)        credit/  findings
"""

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from . import checkpoint as checkpoints
from .config import Config
from .errors import CheckpointIncompatible, ConfigError, DiskError, RunNotFound, suggest
from .resolve import Resolved, read_file, resolve

Event = Callable[[dict[str, Any]], None]
"""Called with each record as it is logged, and with {"event": "progress", ...} after every round."""


def runs_root() -> Path:
    """Where runs lie: MARL_RUNS, else ./runs."""
    return Path(os.environ.get("MARL_RUNS", "runs"))


def find_folder(text: str) -> Path:
    """A run folder by path or name; RunNotFound lists what there is."""
    root = runs_root()
    if text == "last":
        pointer = root / ".last"
        if not pointer.exists():
            raise RunNotFound(f"there is no last run in {root}/", remedy="marl train TASK, or name a run folder")
        text = pointer.read_text().strip()
    for folder in (Path(text), root / text):
        if (folder / "config.yaml").is_file():
            return folder
    names = sorted(path.parent.name for path in root.glob("*/config.yaml"))
    listing = f" Runs in {root}/: {', '.join(names[-5:])}." if names else ""
    raise RunNotFound(f'no run "{text}".{suggest(text, names)}{listing}', remedy="give a run folder, a run's name, or last")


def find_checkpoint(folder: Path, wanted: str) -> Path:
    """The newest checkpoint, the best by evaluation, or the one at an env step."""
    root = folder / "checkpoints"
    found = checkpoints.list_checkpoints(root)
    if not wanted:
        return checkpoints.latest(root)
    if wanted == "best":
        scored = [(record["return"], record["env_steps"]) for record in read_metrics(folder) if record["event"] == "evaluation"]
        present = {checkpoints.step_of(path): path for path in found}
        best = max(((mean, step) for mean, step in scored if step in present), default=None)
        if best is None:
            raise RunNotFound(f"{folder.name} has no evaluated checkpoint yet", remedy=f"use {folder.name} for the newest one")
        return present[best[1]]
    steps = [checkpoints.step_of(path) for path in found]
    number = wanted.removeprefix("step_")
    if not number.isdigit() or int(number) not in steps:
        raise RunNotFound(
            f"{folder.name} has no checkpoint @{wanted}", remedy=f"there are: {', '.join(f'@{step}' for step in steps[-8:])}, @best"
        )
    return found[steps.index(int(number))]


def read_config(folder: Path) -> Config:
    """The configuration a run was made with."""
    try:
        return resolve([("config.yaml", read_file(folder / "config.yaml"))]).config
    except ConfigError as error:
        raise CheckpointIncompatible(
            f"{folder}: {error}", remedy="config.yaml is written by marl train and not meant to be edited"
        ) from error


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl; a last line cut by a crash is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    try:
        return [json.loads(line) for line in lines[:-1] if line]
    except ValueError as error:  # both of JSON and of its encoding
        raise CheckpointIncompatible(
            f"{path} has a line that is no JSON", remedy=f"marl resume {folder} cuts the log back to its checkpoint, or take the line out"
        ) from error


def new_folder(resolved: Resolved, out: Path | None) -> Path:
    """A fresh run folder that holds its configuration, registered as the last one; a full disk leaves none."""
    config, root = resolved.config, runs_root() if out is None else out.parent
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"{out} exists and is not a folder", remedy="choose another --out")
    if out is not None and out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} exists and is not empty", remedy="choose another --out, or go on with marl resume")
    made = out is None or not out.exists()
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", config.task).strip("-").lower()
    base = f"{slug}-{config.algo}-s{config.seed}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if out is not None:
            folder = out
            folder.mkdir(exist_ok=True)
        else:
            folder = _first_free(root, base)
        runs_root().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise checkpoints.disk_error(error, root) from error
    try:
        write_config(folder, resolved)
        write_atomically(runs_root() / ".last", (folder.name if out is None else str(folder.resolve())) + "\n")
    except DiskError:
        if made:
            shutil.rmtree(folder)
        raise
    return folder


def seed_folder(out: Path | None, seed: int) -> Path | None:
    """Where one of several seeds goes when `--out` names a folder."""
    return None if out is None else out / f"seed-{seed}"


def _first_free(root: Path, base: str) -> Path:
    number = 1
    while True:
        folder = root / (base if number == 1 else f"{base}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            continue
        return folder


def write_config(folder: Path, resolved: Resolved) -> None:
    write_atomically(folder / "config.yaml", config_text(resolved.config))
    write_atomically(folder / "sources.yaml", yaml.safe_dump(resolved.sources, sort_keys=True))


def config_text(config: Config) -> str:
    """A configuration as YAML that `--config` reads back."""
    plain = asdict(config)
    plain["members"] = list(config.members)
    return yaml.safe_dump(plain, sort_keys=False)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise checkpoints.disk_error(error, path) from error


class Logbook:
    """metrics.jsonl, appended and flushed line by line; wall-clock fields are named time.* and nothing else depends on the clock."""

    def __init__(self, path: Path, on_event: Event, *, seconds: float):
        self.path, self.on_event = path, on_event
        self.began = time.monotonic() - seconds
        try:
            # Unbuffered: a line that did not fit the disk must not be tried again when the file is closed.
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115  (held open for the run's length)
        except OSError as error:
            raise checkpoints.disk_error(error, path) from error

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def write(self, record: dict[str, Any]) -> None:
        record = record | {
            "time.seconds": round(self.seconds, 3),
            "time.env_steps_per_second": round(record["env_steps"] / self.seconds, 1),
        }
        line = json.dumps(record).encode() + b"\n"
        try:
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise checkpoints.disk_error(error, self.path) from error
        self.on_event(record)

    def flush(self) -> int:
        """Bring the file to disk; its length in bytes."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise checkpoints.disk_error(error, self.path) from error
        return self.file.tell()
