"""Our own C++ loops: built once per machine with its compiler, kept on disk, called by address.

The torch version beside each is the reference it is tested against, and what runs where there is no compiler.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).with_name("gru_layer.cpp")
_COMPILE, _LINK = ("-c", "-O3", "-march=native", "-std=c++17", "-fPIC"), ("-shared", "-pthread")
_WIDE = ("avx512f", "-mprefer-vector-width=512")
"""Processors with vectors of 16 numbers, for which compilers use halves of them unless told otherwise: half the speed."""
COMPILERS = ("g++", "clang++", "c++")


class BuildFailed(RuntimeError):
    """The compiler refused."""


def find_compiler() -> str | None:
    """The C++ compiler there is: the one named by CXX, or a usual one."""
    return next((path for name in (os.environ.get("CXX", ""), *COMPILERS) if name and (path := shutil.which(name))), None)


@cache
def gru_library() -> ctypes.CDLL:
    """The recurrent layer's loops; BuildFailed says what the compiler said."""
    compiler = find_compiler()
    if compiler is None:
        raise BuildFailed(f"no C++ compiler: none of {', '.join(COMPILERS)} was found")
    named = repr((compiler, *_flags(), _LINK, processor())).encode()
    target = cache_folder() / f"gru_layer-{hashlib.sha256(_SOURCE.read_bytes() + named).hexdigest()[:16]}.so"
    if not target.exists():
        _build(compiler, target)
    try:
        library = ctypes.CDLL(str(target))
    except OSError:  # a file that was damaged
        _build(compiler, target)
        library = ctypes.CDLL(str(target))
    library.gru_forward.restype = library.gru_backward.restype = None
    return library


def _build(compiler: str, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            loops, built = Path(scratch) / "loops.o", Path(scratch) / target.name
            _run([compiler, *_flags(), str(_SOURCE), "-o", str(loops)])
            _run([compiler, str(loops), "-o", str(built), *_LINK])
            built.replace(target)  # whole or not at all: another process may build it at the same time
    except OSError as error:
        raise BuildFailed(f"{error.filename or target.parent}: {error.strerror or error}") from error


def _flags() -> tuple[str, ...]:
    feature, flag = _WIDE
    return (*_COMPILE, flag) if feature in processor().split() else _COMPILE


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(done.stderr.strip().partition("\n")[0] or f"{command[0]} ended with code {done.returncode}")


def cache_folder() -> Path:
    """Where built files are kept, as the XDG rules have it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "teamcredit"


def processor() -> str:
    """What -march=native depends on."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "unknown")
