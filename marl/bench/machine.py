"""What the figures were measured on: the header of every table."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "mpe2", "lbforaging", "rware", "vmas", "jax", "jaxmarl", "flashbax", "cpprb", "torchrl", "benchmarl")


def describe(core: int | None) -> dict[str, Any]:
    """Processor, cores, threads, load and versions; `core` is the one the measurement is pinned to, or None."""
    import torch

    return {
        "machine": {
            "cpu": processor(),
            "cores": os.cpu_count(),
            "pinned_to_core": core,
            "torch_threads": torch.get_num_threads(),
            "load": round(os.getloadavg()[0], 2),
            "system": platform.platform(terse=True),
        },
        "versions": {"teamcredit": installed("teamcredit"), "python": platform.python_version(), **versions()},
    }


def processor() -> str:
    """The processor's own name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions of what is measured, as far as it is installed."""
    return {name: found for name in PACKAGES if (found := installed(name)) is not None}


def installed(package: str) -> str | None:
    """A package's version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def sentence(header: dict[str, Any]) -> str:
    """The header for people."""
    machine, packages = header["machine"], header["versions"]
    cores = f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}, load {machine['load']:g}"
    pinned = "not pinned" if machine["pinned_to_core"] is None else f"pinned to core {machine['pinned_to_core']}"
    threads = f"{machine['torch_threads']} torch thread{'s' if machine['torch_threads'] != 1 else ''}"
    return f"{machine['cpu']}, {cores}; {pinned}, {threads}\n{', '.join(f'{name} {number}' for name, number in packages.items())}"
