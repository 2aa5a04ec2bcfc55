"""Trees: dicts, tuples and frozen dataclasses with tensors (or None) at their ends."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def map_tree(fn: Callable[..., Tensor], first: Any, *rest: Any) -> Any:
    """`fn` of the matching tensors of trees of one shape."""
    if isinstance(first, Tensor):
        return fn(first, *rest)
    if first is None:
        return None
    if isinstance(first, dict):
        return {name: map_tree(fn, *(tree[name] for tree in (first, *rest))) for name in first}
    if isinstance(first, tuple):
        return tuple(map_tree(fn, *parts) for parts in zip(first, *rest, strict=True))
    return type(first)(**{name: map_tree(fn, *(getattr(tree, name) for tree in (first, *rest))) for name in vars(first)})


def leaves(tree: Any) -> list[Tensor]:
    """The tensors in order."""
    found: list[Tensor] = []
    _gather(tree, found)
    return found


def _gather(tree: Any, found: list[Tensor]) -> None:
    if isinstance(tree, Tensor):
        found.append(tree)
    elif tree is not None:
        for part in tree if isinstance(tree, tuple) else (tree if isinstance(tree, dict) else vars(tree)).values():
            _gather(part, found)


def rebuild(tree: Any, tensors: Iterable[Tensor]) -> Any:
    """A tree of the same shape around other tensors, given in order."""
    following = iter(tensors)
    return map_tree(lambda _: next(following), tree)


def write_into(old: Any, new: Any) -> None:
    """Copy the tensors of one tree into another's of the same shape."""
    for held, value in zip(leaves(old), leaves(new), strict=True):
        if held is not value:
            held.copy_(value)


def owned(tree: Any, *, order: torch.memory_format = torch.contiguous_format) -> Any:
    """The tree with every tensor in memory of its own, in the plain order of its axes (`torch.preserve_format`: in the order it had).

    A graph is made for its inputs' strides (of axes of length 1 too) and for which of them are one tensor: those never change here.
    """
    return map_tree(lambda value: value.detach().clone(memory_format=order), tree)
