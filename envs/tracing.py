"""Whether operations are being written down as one graph: then no branch may depend on what a tensor holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_tracing: ContextVar[bool] = ContextVar("tracing", default=False)


def in_one_graph() -> bool:
    """True inside `tracing()`."""
    return _tracing.get()


@contextmanager
def tracing() -> Iterator[None]:
    """What runs inside is written down as one graph."""
    token = _tracing.set(True)
    try:
        yield
    finally:
        _tracing.reset(token)
