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
_FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp-simd", "-std=c++17", "-shared", "-fPIC")
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
    text = _SOURCE.read_bytes()
    target = _folder() / f"gru_scan-{hashlib.sha256(text + repr((compiler, _FLAGS, _processor())).encode()).hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            built = Path(scratch) / target.name
            done = subprocess.run([compiler, *_FLAGS, str(_SOURCE), "-o", str(built), "-lm"], capture_output=True, text=True, check=False)
            if done.returncode:
                raise BuildFailed(done.stderr.strip().partition("\n")[0])
            built.replace(target)  # whole or not at all: another process may build it at the same time
    library = ctypes.CDLL(str(target))
    library.gru_forward.restype = library.gru_backward.restype = None
    return library


def _folder() -> Path:
    """Where built files are kept, as the XDG rules have it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "teamcredit"


def _processor() -> str:
    """What -march=native depends on."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "unknown")
