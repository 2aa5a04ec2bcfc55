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

_SOURCE = Path(__file__).with_name("gru_scan.cpp")
_QUICK = ("-fno-math-errno", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-D__FAST_MATH__=1")
"""The harmless part of -ffast-math, whose other part turns NaNs into numbers, 1 / infinity into NaN, and denormal numbers of the whole
process into zeros once the library is loaded. glibc asks for the macro before it offers an exponential of 16 numbers at once."""
_COMPILE = ("-c", "-O3", "-march=native", *_QUICK, "-fopenmp-simd", "-std=c++17", "-fPIC")
_LINK = ("-shared", "-lm")
COMPILERS = ("g++", "clang++", "c++")


class BuildFailed(RuntimeError):
    """The compiler refused."""


def find_compiler() -> str | None:
    """The C++ compiler there is: the one named by CXX, or a usual one."""
    return next((path for name in (os.environ.get("CXX", ""), *COMPILERS) if name and (path := shutil.which(name))), None)


@cache
def gru_library() -> ctypes.CDLL:
    """The recurrent unit's loops; BuildFailed says what the compiler said."""
    compiler = find_compiler()
    if compiler is None:
        raise BuildFailed(f"no C++ compiler: none of {', '.join(COMPILERS)} was found")
    named = repr((compiler, _COMPILE, _LINK, _processor())).encode()
    target = _folder() / f"gru_scan-{hashlib.sha256(_SOURCE.read_bytes() + named).hexdigest()[:16]}.so"
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
            _run([compiler, *_COMPILE, str(_SOURCE), "-o", str(loops)])
            _run([compiler, str(loops), "-o", str(built), *_LINK])
            built.replace(target)  # whole or not at all: another process may build it at the same time
    except OSError as error:
        raise BuildFailed(f"{error.filename or target.parent}: {error.strerror or error}") from error


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(done.stderr.strip().partition("\n")[0] or f"{command[0]} ended with code {done.returncode}")


def _folder() -> Path:
    """Where built files are kept, as the XDG rules have it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "teamcredit"


def _processor() -> str:
    """What -march=native depends on."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "unknown")
