"""Is this machine fit? Versions, threads, extras, one real frame per drawable environment family, room for runs."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .cli_output import table
from .kernels import find_compiler

FAMILIES: dict[str, tuple[tuple[str, ...], str]] = {
    "mpe": (("mpe2",), "teamcredit[envs]"),
    "lbf": (("lbforaging",), "teamcredit[envs]"),
    "butterfly": (("pygame", "pymunk"), "pettingzoo[butterfly]"),
    "sisl": (("pygame", "pymunk", "Box2D", "scipy"), "pettingzoo[sisl]"),
}
"""First part of a task id -> (modules it needs, what pip installs)."""

_FRAMES = {"mpe": "mpe2.simple_spread_v3", "butterfly": "pettingzoo.butterfly.pistonball_v6", "sisl": "pettingzoo.sisl.pursuit_v5"}
"""Families that draw without a window -> a module to try it with."""
_DRAW = """
import importlib, sys
env = importlib.import_module(sys.argv[1]).parallel_env(render_mode="rgb_array")
env.reset(seed=0)
frame = env.render()
assert frame.ndim == 3, f"the frame has shape {frame.shape}"
assert (frame != frame[0, 0]).any(), "the frame is one single colour"
print(f"{frame.shape[1]} x {frame.shape[0]} pixels")
"""
_ROOM_NEEDED = 200 * 2**20


@dataclass(frozen=True)
class Check:
    """One line of `marl doctor`."""

    name: str
    status: str
    """ok, note (worth knowing, nothing fails) or failed."""
    detail: str


def missing_package(task: str) -> str:
    """What pip must install before `task` works, "" when nothing is missing."""
    modules, requirement = FAMILIES.get(task.partition("/")[0], ((), ""))
    return requirement if any(importlib.util.find_spec(module) is None for module in modules) else ""


def examine(root: Path) -> list[Check]:
    """All checks; `root` is where runs go."""
    return [*_versions(), *_torch(), _compiler(), *_extras(), *_frames(), _writable(root), _room(root)]


def to_document(checks: list[Check]) -> dict[str, Any]:
    """`marl doctor --json`."""
    return {"ok": all(check.status != "failed" for check in checks), "checks": [asdict(check) for check in checks]}


def to_text(checks: list[Check]) -> str:
    """`marl doctor`."""
    return table(("check", "", "what was seen"), [(check.name, check.status, check.detail) for check in checks])


def _versions() -> Iterator[Check]:
    yield Check(
        "teamcredit", "ok", f"{version('teamcredit')} on Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    names = ("torch", "numpy", "pettingzoo", "gymnasium", "supersuit", "safetensors", "cyclopts", "rich")
    yield Check("packages", "ok", ", ".join(f"{name} {version(name)}" for name in names))


def _torch() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        yield Check("gpu", "note", f"{torch.cuda.get_device_name()} is seen; training here uses the CPU")
    elif torch.version.cuda:
        detail = (
            f"none is seen, though torch is a build for CUDA {torch.version.cuda} (2.7 GB of packages). "
            "The smaller one: pip install torch --index-url https://download.pytorch.org/whl/cpu"
        )
        yield Check("gpu", "note", detail)
    else:
        yield Check("gpu", "ok", "none needed: torch is a build for the CPU")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("threads", "ok", f"{torch.get_num_threads()} used, {cores} cores here (--threads or MARL_THREADS changes it)")


def _compiler() -> Check:
    path = find_compiler()
    if path is None:
        return Check("compiler", "note", "no g++ or clang++: long runs are not captured (marl train --compile)")
    return Check("compiler", "ok", f"{path}: long runs can be captured")


def _extras() -> Iterator[Check]:
    for family in FAMILIES:
        requirement = missing_package(f"{family}/")
        if requirement:
            yield Check(f"{family}/ tasks", "note", f'absent: pip install "{requirement}"')
        else:
            yield Check(f"{family}/ tasks", "ok", "installed")


def _frames() -> Iterator[Check]:
    """Drawn in a process of its own: a graphics library may end its process rather than raise."""
    for family, module in _FRAMES.items():
        if missing_package(f"{family}/"):
            continue
        environment = {**os.environ, "SDL_VIDEODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
        command = [sys.executable, "-W", "ignore", "-c", _DRAW, module]
        try:
            drawn = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            yield Check(f"{family}/ frame", "failed", "no frame within 60 s")
            continue
        lines = (drawn.stderr if drawn.returncode else drawn.stdout).strip().splitlines() or [f"exit code {drawn.returncode}"]
        yield Check(f"{family}/ frame", "failed" if drawn.returncode else "ok", lines[-1])


def _nearest(root: Path) -> Path:
    """`root`, or the first folder above it that exists."""
    return next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())


def _writable(root: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=_nearest(root)) as file:
            file.write(b"x")
    except OSError as error:
        return Check("run folder", "failed", f"{root} cannot be written: {error.strerror}. Set MARL_RUNS to another folder")
    return Check("run folder", "ok", f"{root} can be written")


def _room(root: Path) -> Check:
    free = shutil.disk_usage(_nearest(root)).free
    return Check("disk", "ok" if free >= _ROOM_NEEDED else "failed", f"{free / 2**30:,.1f} GiB free at {root}; a run takes up to 0.2 GiB")
