"""Exact copies of live Python environments, object by object, in the middle of an episode.

PettingZoo has no way to copy an environment, and `copy.deepcopy` cannot be trusted with one: it believes what classes say
about themselves, and an `EzPickle` environment says that its constructor arguments are all there is, so its positions are
lost (MPE2 1.1.1). Here instances are copied attribute by attribute, whatever their class says. What cannot move is
shared (modules, classes, loggers, fonts, clocks); pictures are copied, for some environments observe them; views into an
array stay views into its copy; random streams go on from where they stand. What cannot be copied (a thread, a lock, an open
file, a running generator) is refused with its path. Whether a copy really is one is judged by fork_check.py, not here.
"""

import copy
from collections.abc import Callable, Iterable
from types import BuiltinMethodType, CellType, FunctionType, MethodType
from typing import Any
from weakref import ref

import numpy as np
import torch
from gymnasium.spaces import Box

from .fork_kinds import (
    BOUNDS,
    REFUSED_NAMES,
    SHARED,
    Calling,
    CannotCopy,
    attributes,
    holds_handle,
    is_plain,
    is_shared,
    names_of,
    own_dict,
    owner_of,
    reduction,
    set_state,
    short,
    view_like,
)

_MISSING = object()


def copy_env(env: Any) -> Any:
    """A copy of a live environment that shares nothing with it that moves, so that both have the same future.

    Raises:
        CannotCopy: a part has no copy; its path within `env` is named.
    """
    copier = _Copier()
    try:
        made = copier.copy(env)
        copier.fill()
    except CannotCopy as refusal:
        raise refusal.under("env") from refusal.__cause__
    except RecursionError as error:
        raise CannotCopy("env", "is nested too deeply to be copied") from error
    return made


class _Copier:
    """One copy under way. `memo` maps the id of an original to its copy, so what is one object stays one."""

    def __init__(self):
        self.memo: dict[Any, Any] = {}
        self.kept: list[Any] = []
        """Originals: their ids must not be given to others while the copy is made."""
        self.ways: dict[type, Callable[[Any], Any]] = dict.fromkeys(SHARED, _same) | {
            list: self._list,
            tuple: self._tuple,
            dict: self._dict,
            set: self._set,
            frozenset: self._set,
            np.ndarray: self._array,
            FunctionType: self._function,
            MethodType: self._method,
            BuiltinMethodType: self._builtin_method,
            CellType: self._cell,
            ref: self._reference,
            torch.Generator: _torch_stream,
        }
        self.unhashed: list[Callable[[], None]] = []
        """Dicts and sets are filled last: the hash of a key may ask for attributes that it does not have yet."""

    def copy(self, value: Any) -> Any:
        kind = type(value)
        way = self.ways.get(kind)
        if way is _same:
            return value
        made = self.memo.get(id(value), _MISSING)
        if made is not _MISSING:
            return made
        if way is None:
            way = self.ways[kind] = self._way(kind, value)
        return self._remember(value, way(value))

    def fill(self, since: int = 0) -> None:
        """Fill the dicts and sets that were met after the first `since`."""
        waiting, self.unhashed[since:] = self.unhashed[since:], []
        for fill in waiting:
            fill()

    def _remember(self, value: Any, made: Any) -> Any:
        if id(value) not in self.memo:
            self.memo[id(value)] = made
            self.kept.append(value)
        return made

    def _way(self, kind: type, value: Any) -> Callable[[Any], Any]:
        names = names_of(kind)
        if is_shared(kind):
            return _same
        for name, what in REFUSED_NAMES.items():
            if name in names:
                return lambda value: _refuse(f"is {what}")
        if "pygame.surface.Surface" in names:
            return self._surface
        if "pygame.mask.Mask" in names:
            return lambda value: value.copy()
        if "pygame.color.Color" in names:
            return kind
        if issubclass(kind, torch.Tensor):
            return self._tensor
        if not is_plain(kind) or holds_handle(value):
            return self._reduced
        return self._box if issubclass(kind, Box) else self._instance

    def _list(self, value: list[Any]) -> list[Any]:
        made = self._remember(value, [])
        self._each(made.append, value)
        return made

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        items: list[Any] = []
        self._each(items.append, value)
        if id(value) in self.memo:  # one of its items has led back to it
            return self.memo[id(value)]
        return value if all(map(_is, items, value)) else tuple(items)

    def _each(self, put: Callable[[Any], Any], values: Iterable[Any]) -> None:
        done = 0
        try:
            for item in values:
                put(self.copy(item))
                done += 1
        except CannotCopy as refusal:
            raise refusal.under(f"[{done}]") from refusal.__cause__

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        made = self._remember(value, {})
        pairs, key = [], None
        try:
            for key, item in value.items():
                pairs.append((self.copy(key), self.copy(item)))
        except CannotCopy as refusal:
            raise refusal.under(f"[{short(key)}]") from refusal.__cause__
        self.unhashed.append(lambda: made.update(pairs))
        return made

    def _set(self, value: Any) -> Any:
        items = [self.copy(item) for item in value]
        if all(map(_is, items, value)):
            return value if isinstance(value, frozenset) else _in_order(items, value.copy())
        if isinstance(value, frozenset):
            return _in_order(items, frozenset(items))
        made = self._remember(value, set())
        self.unhashed.append(lambda: _in_order(items, made, made.update(items)))
        return made

    def _array(self, value: np.ndarray) -> np.ndarray:
        if value.dtype == object:
            made = self._remember(value, np.empty(value.shape, dtype=object))
            for index, item in enumerate(value.flat):
                made.flat[index] = self.copy(item)
        elif (owner := owner_of(value)) is not value:
            made = view_like(value, owner, self.copy(owner))
        elif value.base is None or isinstance(value.base, bytes):
            made = value.copy(order="K")
        else:
            return _refuse(f"is an array in memory of another kind ({type(value.base).__name__})")
        made.flags.writeable = value.flags.writeable
        return made

    def _tensor(self, value: torch.Tensor) -> torch.Tensor:
        if not value.is_leaf:
            _refuse("is a tensor with a history of gradients")
        with Calling("is copied"):
            return copy.deepcopy(value, self.memo)

    def _function(self, value: FunctionType) -> FunctionType:
        """A function that carries variables with it gets variables of its own; any other is its module's."""
        if value.__closure__ is None and value.__defaults__ is None and not value.__kwdefaults__ and not value.__dict__:
            return value
        cells = None if value.__closure__ is None else tuple(self.copy(cell) for cell in value.__closure__)
        if id(value) in self.memo:  # one of its variables is the function itself
            return self.memo[id(value)]
        made = self._remember(value, FunctionType(value.__code__, value.__globals__, value.__name__, None, cells))
        made.__defaults__, made.__kwdefaults__ = self.copy(value.__defaults__), self.copy(value.__kwdefaults__)
        made.__dict__.update({name: self.copy(held) for name, held in value.__dict__.items()})
        made.__qualname__, made.__module__, made.__doc__ = value.__qualname__, value.__module__, value.__doc__
        return made

    def _cell(self, value: CellType) -> CellType:
        made = self._remember(value, CellType())
        try:
            held = value.cell_contents
        except ValueError:  # a variable that has no value yet
            return made
        made.cell_contents = self.copy(held)
        return made

    def _method(self, value: MethodType) -> MethodType:
        return MethodType(value.__func__, self.copy(value.__self__))

    def _builtin_method(self, value: Any) -> Any:
        moved = self.copy(value.__self__)
        return value if moved is value.__self__ else getattr(moved, value.__name__)

    def _reference(self, value: "ref[Any]") -> "ref[Any]":
        held = value()
        return value if held is None else ref(self.copy(held))

    def _surface(self, value: Any) -> Any:
        parent = value.get_parent()
        if parent is not None:
            return self.copy(parent).subsurface(value.get_offset(), value.get_size())
        with Calling("is copied"):  # the picture may be of a window that was closed
            made = value.copy()
            made.set_clip(value.get_clip())
        return made

    def _box(self, value: Box) -> Box:
        """A space with a random stream of its own; its bounds, often several images large, are shared."""
        for name, held in attributes(value):
            if name in BOUNDS:
                self._remember(held, held)
        return self._instance(value)

    def _instance(self, value: Any) -> Any:
        made = self._remember(value, object.__new__(type(value)))
        own, new, name = own_dict(value) or {}, own_dict(made), ""
        try:
            for name, held in attributes(value):
                copied = self.copy(held)
                if new is not None and name in own:
                    new[name] = copied
                else:
                    object.__setattr__(made, name, copied)
        except CannotCopy as refusal:
            raise refusal.under(f".{name}") from refusal.__cause__
        return made

    def _reduced(self, value: Any) -> Any:
        """As the class itself says, for memory that Python does not see: what it says has to be whole when it is used."""
        since, said = len(self.unhashed), reduction(value)
        if isinstance(said, str):  # the name of something global
            return value
        make, arguments = said[:2]
        state, items, pairs = (*said[2:], None, None, None)[:3]
        arguments = self.copy(arguments)
        self.fill(since)
        with Calling("is made anew"):
            made = self._remember(value, make(*arguments))
        state = self.copy(state)
        self.fill(since)
        if state is not None:
            with Calling("is given its state"):
                set_state(made, state)
        self._each(getattr(made, "append", _refuse), items or ())
        for key, item in pairs or ():
            made[self.copy(key)] = self.copy(item)
        self.kept.append(said)
        return made


def _torch_stream(value: torch.Generator) -> torch.Generator:
    made = torch.Generator(device=value.device)
    made.set_state(value.get_state())
    return made


def _same(value: Any) -> Any:
    return value


def _is(one: Any, other: Any) -> bool:
    return one is other


def _in_order(items: list[Any], made: Any, _: None = None) -> Any:
    """`made`, unless it is gone through in another order than the set whose items' copies `items` are."""
    if not all(map(_is, items, made)):
        _refuse("holds a set that is gone through in another order in the copy")
    return made


def _refuse(why: str) -> Any:
    raise CannotCopy("", why)
