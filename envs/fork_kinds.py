"""What Python objects are made of, for whoever copies them (fork.py) or compares them (fork_parts.py)."""

import enum
import logging
import re
from collections.abc import Iterator
from types import BuiltinMethodType, ModuleType, TracebackType
from typing import Any

import numpy as np
import torch
from gymnasium.utils.ezpickle import EzPickle

_HEAP_TYPE = 1 << 9

SHARED: tuple[type, ...] = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, object, type(Ellipsis), type(NotImplemented)),
    *(np.ufunc, re.Pattern, property, staticmethod, classmethod, torch.dtype, torch.device, torch.Size),
)
"""Exact types whose values never change."""
_SHARED_BASES = (type, ModuleType, enum.Enum, logging.Logger, logging.LoggerAdapter, np.dtype, np.generic)
SHARED_NAMES = ("pygame.time.Clock", "pygame.font.Font", "pygame.freetype.Font", "pygame.mixer.Sound", "pygame.mixer.Channel")
"""Nothing that an agent can notice changes in these."""
REFUSED_NAMES = {
    "subprocess.Popen": "a process",
    "multiprocessing.process.BaseProcess": "a process",
    "multiprocessing.connection._ConnectionBase": "a connection to another process",
    "threading.Thread": "a thread",
    "concurrent.futures._base.Executor": "a pool of threads or processes",
    "asyncio.events.AbstractEventLoop": "an event loop",
}
"""Their attributes could be copied, what they stand for could not."""
BOUNDS = ("low", "high", "bounded_below", "bounded_above")
"""Arrays of a `gymnasium.spaces.Box`."""
_HANDLE_MODULES = ("_cffi_backend", "ctypes", "_ctypes")


class CannotCopy(ValueError):
    """A part of an environment that has no copy."""

    def __init__(self, path: str, why: str):
        self.path, self.why = path, why
        super().__init__(f"{path or 'it'} {why}")

    def under(self, name: str) -> "CannotCopy":
        """The same, seen from the object of which it is a part."""
        return CannotCopy(f"{name}{self.path}", self.why)


class Calling:
    """Around code of others: what it raises becomes `CannotCopy`. A context manager because it must see errors of any kind."""

    def __init__(self, doing: str):
        self.doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, CannotCopy):
            raise CannotCopy("", f"fails while it {self.doing} ({type(error).__name__}: {error})") from error


def names_of(kind: type) -> set[str]:
    """The full names of a class and its bases."""
    return {f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__}


def is_shared(kind: type) -> bool:
    """Whether values of this type are the same in an environment and its copy."""
    return kind in SHARED or issubclass(kind, _SHARED_BASES) or not names_of(kind).isdisjoint(SHARED_NAMES)


def is_plain(kind: type) -> bool:
    """Whether instances are their attributes and no more: every base but `object` was made by a `class` statement."""
    return all(
        base.__flags__ & _HEAP_TYPE
        and not isinstance(vars(base).get("__new__"), BuiltinMethodType)
        and ("__slots__" in vars(base) or base.__dictoffset__ != 0)
        for base in kind.__mro__[:-1]
    )


def own_dict(value: Any) -> dict[str, Any] | None:
    """The instance's attributes, not asking a `__getattr__` that may answer for another object."""
    return object.__getattribute__(value, "__dict__") if type(value).__dictoffset__ else None


def attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every attribute kept in an instance, in its dict or in slots."""
    yield from (own_dict(value) or {}).items()
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name in ("__dict__", "__weakref__"):
                continue
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{base.__name__.lstrip('_')}{name}"
            try:
                held = vars(base)[name].__get__(value)
            except AttributeError:  # it has no value yet
                continue
            yield name, held


def holds_handle(value: Any) -> bool:
    """Whether an attribute is a pointer into memory of a C library, which only the class itself knows how to copy."""
    return any(type(held).__module__ in _HANDLE_MODULES for _, held in attributes(value))


def owner_of(array: np.ndarray) -> np.ndarray:
    """The array whose memory this one looks at: itself, where it is no view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def reduction(value: Any) -> tuple[Any, ...] | str:
    """What the class says its instance is made of (`__reduce_ex__`).

    Raises:
        CannotCopy: it says nothing, or says what is known to lose its state.
    """
    if isinstance(value, EzPickle):
        raise CannotCopy("", f"is a {type(value).__name__}, which is made anew from its arguments (EzPickle) and has memory of its own")
    try:
        with Calling("says what it is made of"):
            return value.__reduce_ex__(4)
    except CannotCopy as error:
        raise CannotCopy("", f"is a {type(value).__name__} and has no copy ({error.__cause__})") from error.__cause__


def short(key: Any) -> str:
    """A key of a dict in a path."""
    text = repr(key) if isinstance(key, str | int | float | tuple) else f"<{type(key).__name__}>"
    return text if len(text) <= 40 else f"{text[:37]}..."


def view_like(value: np.ndarray, owner: np.ndarray, copied: np.ndarray) -> np.ndarray:
    """The view into `copied` that `value` is into `owner`."""
    if copied.strides != owner.strides or not copied.flags.forc or owner.dtype.hasobject:
        raise CannotCopy("", "is a view into an array whose memory has gaps")
    memory = (copied if copied.flags.c_contiguous else copied.T).reshape(-1).view(np.uint8)
    offset = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return np.ndarray(value.shape, value.dtype, buffer=memory, offset=offset, strides=value.strides)


def set_state(made: Any, state: Any) -> None:
    """Give an object that was made anew the state that `reduction` named, as the class wants it."""
    if hasattr(made, "__setstate__"):
        made.__setstate__(state)
        return
    own, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    made.__dict__.update(own or {})
    for name, held in (slots or {}).items():
        setattr(made, name, held)
