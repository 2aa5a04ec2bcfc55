"""Checkpoints: safetensors and JSON in one folder per checkpoint, complete or absent, never half-written.

A checkpoint is written into a temporary folder, every file is flushed to disk, and the folder is renamed into place.
`state.json` lists each file's size and SHA-256, so damage is found when it is read, not later.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from .errors import CheckpointDamaged, CheckpointIncompatible, DiskError, RunNotFound

FORMAT = 4
STATE = "state.json"


@dataclass(frozen=True)
class Content:
    """What one checkpoint holds: JSON values, and groups of named tensors (one file each)."""

    meta: dict[str, Any]
    groups: dict[str, dict[str, Tensor]]


def folder_name(env_steps: int) -> str:
    return f"step_{env_steps:09d}"


def save(root: Path, env_steps: int, content: Content) -> Path:
    """Write a checkpoint atomically and return its folder; DiskError leaves nothing half-written."""
    target = root / folder_name(env_steps)
    temporary = root / f".tmp-{folder_name(env_steps)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        files = {}
        for group, tensors in content.groups.items():
            data = save_bytes({name: value.detach().contiguous().clone() for name, value in tensors.items()})
            _write(temporary / f"{group}.safetensors", data)
            files[f"{group}.safetensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        _write(temporary / STATE, _encode({"format": FORMAT, "env_steps": env_steps, "files": files, "meta": content.meta}))
        _sync_folder(temporary)
        if target.exists():  # the same env step saved again (a run resumed and stopped without a step): replace it
            old = root / f".old-{folder_name(env_steps)}"
            shutil.rmtree(old, ignore_errors=True)
            os.rename(target, old)
            os.rename(temporary, target)
            shutil.rmtree(old)
        else:
            os.rename(temporary, target)
        _sync_folder(root)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise disk_error(error, root) from error
    return target


def disk_error(error: OSError, where: Path) -> DiskError:
    """The sentence for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskError(
            f"the disk is full: {where} could not be written; what was saved before is whole",
            remedy="free some space, then: marl resume RUN",
        )
    return DiskError(f"{where} could not be written: {error.strerror or error}", remedy="check the folder's permissions, or set --out")


def read(folder: Path, groups: tuple[str, ...] | None = None) -> Content:
    """A checkpoint's content (all groups, or those named), every byte checked.

    Raises CheckpointDamaged naming the file, and CheckpointIncompatible for a group it does not carry.
    """
    state = _read_state(folder)
    wanted = tuple(name.removesuffix(".safetensors") for name in state["files"]) if groups is None else groups
    loaded = {}
    for group in wanted:
        name = f"{group}.safetensors"
        if name not in state["files"]:
            raise CheckpointIncompatible(f"checkpoint {folder.name} holds no {group}: only the newest checkpoints carry it")
        data = _read_file(folder / name, state["files"][name]["bytes"])
        if hashlib.sha256(data).hexdigest() != state["files"][name]["sha256"]:
            raise _damaged(folder, f"{name} does not match its checksum")
        loaded[group] = load_bytes(data)
    return Content(meta=state["meta"], groups=loaded)


def check_agents(trained: Sequence[str], listed: Sequence[str], task: str) -> None:
    """CheckpointIncompatible where a task lists other agents, or lists them in another order, than the team was trained with."""
    if list(trained) != list(listed):
        raise CheckpointIncompatible(
            f"the team was trained with the agents {', '.join(trained)}, and {task} lists {', '.join(listed)} now",
            remedy="let possible_agents list the same agents in one fixed order (that of a set changes from process to process)",
        )


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    if not path.exists():
        raise _damaged(folder, f"{STATE} is missing")
    try:
        outer = json.loads(path.read_text())
        text = outer["state"]
        sound = hashlib.sha256(text.encode()).hexdigest() == outer["sha256"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{STATE} is not readable") from error
    if not sound:
        raise _damaged(folder, f"{STATE} does not match its checksum")
    state = json.loads(text)
    if state["format"] != FORMAT:
        raise CheckpointIncompatible(f"checkpoint {folder.name} has format {state['format']}; this version reads {FORMAT}")
    return state


def _read_file(path: Path, expected: int) -> bytes:
    if not path.exists():
        raise _damaged(path.parent, f"{path.name} is missing")
    data = path.read_bytes()
    if len(data) != expected:
        raise _damaged(path.parent, f"{len(data):,} of {expected:,} bytes")
    return data


def _damaged(folder: Path, reason: str) -> CheckpointDamaged:
    label = _short(folder)
    message = f"checkpoint {label} is damaged ({reason})."
    for other in reversed(list_checkpoints(folder.parent)):
        if step_of(other) < step_of(folder) and is_sound(other):
            run = folder.parent.parent
            instead = f"marl eval {run}@{step_of(other)}"
            return CheckpointDamaged(f"{message} The one before, {_short(other)}, is sound: {instead}", remedy=instead)
    return CheckpointDamaged(f"{message} There is no sound one before it.", remedy="train again")


def _short(folder: Path) -> str:
    return f"step_{step_of(folder)}"


def is_sound(folder: Path) -> bool:
    """Every file there, whole and unchanged (looked at without following the chain of older ones)."""
    path = folder / STATE
    try:
        outer = json.loads(path.read_text())
        text = outer["state"]
        if hashlib.sha256(text.encode()).hexdigest() != outer["sha256"]:
            return False
        files = json.loads(text)["files"]
        return all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"] for name, entry in files.items())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return False


def digest_of(folder: Path) -> str:
    """12 hex digits of a checkpoint's content: those of its state file, which holds those of every other."""
    return json.loads((folder / STATE).read_text())["sha256"][:12]


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def list_checkpoints(root: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if path.is_dir() and re.fullmatch(r"step_\d+", path.name)), key=step_of)


def latest(root: Path) -> Path:
    """The newest checkpoint; RunNotFound when there is none yet."""
    found = list_checkpoints(root)
    if not found:
        raise RunNotFound(
            f"{root.parent.name} has no checkpoint yet: it stopped before its first one", remedy="start it again with marl train"
        )
    return found[-1]


def drop_replays(root: Path, keep: int) -> None:
    """Take the replay out of all but the newest `keep` checkpoints (damaged ones are left as they are)."""
    for folder in list_checkpoints(root)[:-keep]:
        replay = folder / "replay.safetensors"
        if not replay.exists():
            continue
        try:
            state = _read_state(folder)
        except CheckpointDamaged:
            continue
        state["files"].pop(replay.name, None)
        temporary = folder / f".tmp-{STATE}"
        try:
            _write(temporary, _encode(state))
            os.replace(temporary, folder / STATE)
            replay.unlink()
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise disk_error(error, folder) from error


def drop_after(root: Path, env_steps: int) -> None:
    """Take away what lies after `env_steps`, and what a killed process left half-written: a run has one history."""
    newer = [path for path in list_checkpoints(root) if step_of(path) > env_steps]
    for path in [*newer, *root.glob(".tmp-*"), *root.glob(".old-*")]:
        shutil.rmtree(path)


def _encode(state: dict[str, Any]) -> bytes:
    """state.json: the state as text, beside the checksum of that text."""
    text = json.dumps(state)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "state": text}).encode()


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unflatten(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix.`, without it."""
    return {name.removeprefix(prefix + "."): value for name, value in tensors.items() if name.startswith(prefix + ".")}


def flatten(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix.` before their names."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
