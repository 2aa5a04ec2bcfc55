"""Memory that was freed stays with the process, for the C library of Linux (glibc).

By default glibc gives a large buffer back to the system when it is freed, so the next one of that size is mapped and zeroed
page by page again: for the tensors of an iteration, of a few hundred kB to some MB, that is a good part of the time. No number
changes, only where tensors lie. The settings are the process's own, so the command line makes them and the library never does.
"""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_LARGEST, _OLD_LARGEST = 1 << 30, 32 << 20
"""Bytes: larger buffers still go back, and so does more than this free on top of the heap. Older versions take no more than the second."""


def keep_freed_memory() -> bool:
    """Let the allocator keep what is freed; False where the C library is another one (nothing is done there)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    kept = library.mallopt(_MMAP_THRESHOLD, _LARGEST) or library.mallopt(_MMAP_THRESHOLD, _OLD_LARGEST)
    return bool(kept and library.mallopt(_TRIM_THRESHOLD, _LARGEST))
