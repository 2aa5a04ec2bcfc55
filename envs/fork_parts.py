"""Everything an object holds, as one list of parts with paths: what two environments, or one at two times, can be compared by.

Breadth first, so that a part has the shortest path there is to it, such as `env.unwrapped.world.agents[0].state.p_pos`.
A part that was met before is named by where: two objects have equal lists only when what is one object in the one is one
object in the other.
"""

import hashlib
import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import BuiltinMethodType, CellType, FunctionType, MethodType
from typing import Any
from weakref import ref

import numpy as np
import torch
from gymnasium.spaces import Box

from .fork_kinds import (
    BOUNDS,
    SHARED_NAMES,
    Calling,
    CannotCopy,
    attributes,
    holds_handle,
    is_plain,
    is_shared,
    names_of,
    owner_of,
    reduction,
    short,
)

_STREAMS = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random, torch.Generator)


@dataclass(frozen=True, eq=False)
class Part:
    """One object in another."""

    path: str
    token: Any
    """What it is, apart from its own parts: equal tokens, equal content."""
    held: Any
    """The object itself, where it can change and belongs to the environment; else None."""


def parts_of(env: Any) -> list[Part]:
    """All parts of an environment, the innermost one first, and then what the classes of its parts keep for all their instances."""
    roots = [("env", env)]
    inner = getattr(env, "unwrapped", env)
    if inner is not env:
        roots.insert(0, ("env.unwrapped", inner))
    parts = [*_walk(roots)]
    kinds = dict.fromkeys(type(part.held) for part in parts if part.held is not None)
    kept = [(f"{kind.__name__}.{name}", held) for kind in kinds if is_plain(kind) for name, held in _kept_by_class(kind)]
    # Apart from each other: that an instance points to what its class keeps is no part of its state.
    return parts + [replace(part, held=None) for part in _walk(kept)]


def difference(one: Iterable[Part], other: Iterable[Part]) -> str:
    """The path of the first part in which two lists differ, "" where they do not."""
    mine, theirs = ({part.path: part.token for part in parts} for parts in (one, other))
    for path, token in mine.items():
        if path not in theirs or theirs[path] != token:
            return path
    return next((path for path in theirs if path not in mine), "")


def shared_part(one: Iterable[Part], other: Iterable[Part]) -> str:
    """The path of an object that can change and is part of both, "" where there is none."""
    held = {id(part.held) for part in one if part.held is not None}
    return next((part.path for part in other if part.held is not None and id(part.held) in held), "")


def _walk(roots: list[tuple[str, Any]]) -> Iterator[Part]:
    waiting, met = deque(roots), {}
    kept: list[Any] = []  # so that no id is given twice
    while waiting:
        path, value = waiting.popleft()
        kind = type(value)
        if is_shared(kind):
            yield Part(path, _of_shared(value), None)
        elif id(value) in met:
            yield Part(path, ("again", met[id(value)]), None)
        else:
            met[id(value)] = path
            kept.append(value)
            token, children = _open(value)
            yield Part(path, (kind, token), value if _can_change(kind) else None)
            waiting.extend((f"{path}{name}", child) for name, child in children)


def _can_change(kind: type) -> bool:
    return kind not in (tuple, frozenset, MethodType, BuiltinMethodType, FunctionType, ref)


def _of_shared(value: Any) -> Any:
    kind = type(value)
    if kind is float:
        return value.hex()
    if kind in (bool, int, str, bytes, type(None), complex):
        return kind, value
    if isinstance(value, np.generic):
        return kind, value.tobytes()
    if kind in (range, slice) or isinstance(value, np.dtype):
        return kind, repr(value)
    return kind, id(value) if names_of(kind).isdisjoint(SHARED_NAMES) else ""


def _open(value: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """What a value is without its parts, and the parts with their names."""
    kind = type(value)
    if kind in (list, tuple):
        return len(value), [(f"[{i}]", item) for i, item in enumerate(value)]
    if kind is dict:
        keys = [(f".keys()[{i}]", key) for i, key in enumerate(value)]
        return len(value), [*keys, *((f"[{short(key)}]", item) for key, item in value.items())]
    if kind in (set, frozenset):
        return len(value), [(f"<{i}>", item) for i, item in enumerate(value)]
    if isinstance(value, np.ndarray):
        return _of_array(value)
    if isinstance(value, torch.Tensor):
        with Calling("is compared"):
            array = value.detach().cpu().numpy()
        return _of_array(array)
    if isinstance(value, _STREAMS):
        return _of_stream(value)
    if kind in (FunctionType, MethodType, BuiltinMethodType, CellType, ref):
        return _of_function(value)
    if "pygame.surface.Surface" in names_of(kind):
        with Calling("is compared"):
            parent, form = value.get_parent(), (value.get_size(), value.get_offset(), value.get_flags(), tuple(value.get_clip()))
            return (form, _digest(value.get_buffer().raw)), [] if parent is None else [(".get_parent()", parent)]
    if is_plain(kind) and not holds_handle(value):
        bounds = BOUNDS if isinstance(value, Box) else ()
        held = sorted(attributes(value), key=lambda pair: pair[0])
        return [_of_array(array)[0] for name, array in held if name in bounds], [(f".{name}", v) for name, v in held if name not in bounds]
    return _of_reduction(value)


def _of_array(value: np.ndarray) -> tuple[Any, list[tuple[str, Any]]]:
    if value.dtype == object:
        return value.shape, [(f".flat[{i}]", item) for i, item in enumerate(value.flat)]
    owner = owner_of(value)
    token = (value.dtype.str, value.shape, value.flags.writeable, _digest(np.ascontiguousarray(value).tobytes()))
    return token, [] if owner is value else [(".base", owner)]


def _of_stream(value: Any) -> tuple[Any, list[tuple[str, Any]]]:
    if isinstance(value, np.random.Generator):
        return "", [(".bit_generator", value.bit_generator)]
    if isinstance(value, np.random.BitGenerator):
        return "", [(".state", value.state)]
    if isinstance(value, np.random.RandomState):
        return "", [(".get_state()", value.get_state(legacy=False))]
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes(), []
    return value.getstate(), []


def _of_function(value: Any) -> tuple[Any, list[tuple[str, Any]]]:
    if isinstance(value, FunctionType):
        held = {"__closure__": value.__closure__, "__defaults__": value.__defaults__, "__kwdefaults__": value.__kwdefaults__}
        return value.__code__, [(f".{name}", part) for name, part in held.items() if part]
    if isinstance(value, MethodType):
        return value.__func__.__code__ if isinstance(value.__func__, FunctionType) else "", [(".__self__", value.__self__)]
    if isinstance(value, BuiltinMethodType):
        return value.__name__, [(".__self__", value.__self__)]
    if isinstance(value, ref):
        return "", [("()", value())]
    try:
        return "", [(".cell_contents", value.cell_contents)]
    except ValueError:
        return "empty", []


def _of_reduction(value: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """What the class says of memory that Python does not see; nothing where it says nothing."""
    try:
        said = reduction(value)
    except CannotCopy:
        return "closed", []
    if isinstance(said, str):
        return said, []
    parts = [list(part) if number > 2 and part is not None else part for number, part in enumerate(said)]
    return len(said), [(f".__reduce__()[{number}]", part) for number, part in enumerate(parts) if part is not None]


def _kept_by_class(kind: type) -> list[tuple[str, Any]]:
    """Data that a class keeps."""
    return [
        (name, held)
        for name, held in vars(kind).items()
        if not name.startswith("__") and isinstance(held, (bool, int, float, str, list, dict, set, np.ndarray, *_STREAMS))
    ]


def _digest(data: bytes) -> bytes:
    return data if len(data) <= 64 else hashlib.blake2b(data, digest_size=16).digest()
