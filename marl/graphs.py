"""A function of tensors as one graph: its operations written down once, then run as they are or compiled ahead of time.

`recorded` needs no compiler: no mapping, no modules, no autograd when it runs again. `compiled` makes machine code of the same list of
operations with torch's own compiler (AOTInductor), so that no Python runs between them; it is kept on disk under a key of all that it
depends on. Both work on trees (marl/trees.py), may write into their inputs, and must not look into tensors with Python. What tensors
hold is not a part of a graph; their shapes, strides and types are.
"""

import hashlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from ..envs.tracing import tracing
from .kernels import cache_folder, processor
from .trees import leaves, rebuild

Form = tuple[torch.Size, tuple[int, ...], torch.dtype]
"""Shape, strides and type of a tensor."""
KEPT = 64
"""Compiled graphs on disk, some megabytes each; those not used for longest go first."""
_OPTIONS = {
    # Random numbers are long chains of integer operations: kept short, they are compiled in half the time.
    "realize_opcount_threshold": 12,
    "size_asserts": False,
    "alignment_asserts": False,
}
_aten = torch.ops.aten
_KEEP_SHAPE = (_aten.view.default, _aten._unsafe_view.default, _aten.expand.default)


def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, recorded anew for every set of shapes and strides it is called with."""
    lists: dict[Any, tuple[Callable[..., Any], Any]] = {}

    def call(*inputs: Any) -> Any:
        tensors = leaves(inputs)
        key = tuple(_form(tensor) for tensor in tensors)
        if key not in lists:
            module, result = _record(function, inputs)
            _drop_idle(module)
            lists[key] = module.forward, result
        run, result = lists[key]
        with torch.no_grad():
            return rebuild(result, run(*tensors))

    return call


@dataclass(frozen=True)
class Graph:
    """A compiled function."""

    run: Callable[[list[Tensor]], list[Tensor]]
    forms: tuple[Form, ...]
    """Of the inputs' tensors."""
    result: Any
    """A tree of the shape that comes back."""

    def bind(self, *first: Any) -> Callable[..., Any]:
        """The function of its other arguments; the tensors of the `first` ones stay where they are, so they are looked at but once."""
        held = [tensor.detach() for tensor in leaves(first)]
        forms = self.forms[len(held) :]
        assert [_form(tensor) for tensor in held] == list(self.forms[: len(held)]), "a graph was compiled for other shapes or strides"
        run, result = self.run, self.result

        def call(*rest: Any) -> Any:
            others = [_fit(tensor, form) for tensor, form in zip(leaves(rest), forms, strict=True)]
            return rebuild(result, run(held + others))

        return call


def compiled(function: Callable[..., Any], *example: Any) -> Graph:
    """`function` compiled for inputs like `example`, which is only looked at.

    Raises RuntimeError (or a subclass, by what torch's compilers raise) where something cannot be compiled.
    """
    with tracing():
        module, result = _record(function, example)
    assert not list(module.parameters()), "weights must be among the inputs: a graph keeps its own copy of anything else"
    tensors = [tensor.detach() for tensor in leaves(example)]
    return Graph(_compile(module, tensors), tuple(_form(tensor) for tensor in tensors), result)


def _record(function: Callable[..., Any], inputs: tuple[Any, ...]) -> tuple[GraphModule, Any]:
    """The operations of one call on a list of tensors, and a tree of its result's shape; recording runs them, so it works on copies."""
    results: list[Any] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        results.append(function(*rebuild(inputs, tensors)))
        return leaves(results[-1])

    with _Unread():
        module = make_fx(flat)(*(_copy(tensor) for tensor in leaves(inputs)))
    return module, results[-1]


class _Unread(TorchFunctionMode):
    """Refuses what would turn a tensor's numbers into constants of a graph without a word (branches are refused by make_fx)."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            raise RuntimeError(f"{func.__name__}() of a tensor while a graph is recorded: what tensors hold is not a part of it")
        return func(*args, **(kwargs or {}))


def _copy(tensor: Tensor) -> Tensor:
    return tensor.new_empty_strided(tensor.shape, tensor.stride()).copy_(tensor.detach()).requires_grad_(tensor.requires_grad)


def _form(tensor: Tensor) -> Form:
    return tensor.shape, tensor.stride(), tensor.dtype


def _fit(tensor: Tensor, form: Form) -> Tensor:
    """The tensor, with the strides expected along axes of length 1, where any stride says the same."""
    if _form(tensor) == form:
        return tensor
    shape, stride, dtype = form
    same = all(size == 1 or own == wanted for size, own, wanted in zip(shape, tensor.stride(), stride, strict=True))
    assert (tensor.shape, tensor.dtype) == (shape, dtype), f"a graph for {form} was called with {_form(tensor)}"
    return tensor.as_strided(shape, stride) if same else tensor.new_empty_strided(shape, stride).copy_(tensor)


def _compile(module: GraphModule, tensors: list[Tensor]) -> Callable[[list[Tensor]], list[Tensor]]:
    """The machine code of a list of operations, from disk where it was made before."""
    package = cache_folder() / f"graph-{_key(module, tensors)}.pt2"
    if package.exists():
        try:
            run = _load(package)
        except RuntimeError:  # a file that was damaged, or that another process has just removed
            package.unlink(missing_ok=True)
        else:
            with suppress(OSError):  # the newest are kept; where the time cannot be noted, it may be built again some day
                os.utime(package)
            return run
    package.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=package.parent) as scratch:
        _make(module, tensors, Path(scratch) / package.name).replace(package)  # whole or not at all
    _keep_newest(package.parent)
    return _load(package)


def _key(module: GraphModule, tensors: list[Tensor]) -> str:
    """A digest of all that the machine code depends on."""
    digest = hashlib.sha256()
    held = dict(module.named_buffers())
    forms = [_form(tensor) for tensor in (*tensors, *held.values())]
    for part in (module.code, forms, torch.__version__, torch.get_num_threads(), processor(), _OPTIONS):
        digest.update(repr(part).encode())
    for value in held.values():
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _make(module: GraphModule, tensors: list[Tensor], target: Path) -> Path:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the compiler's own, about its own code
        program = torch.export.export(module, tuple(tensors), strict=False)
        made = torch._inductor.aoti_compile_and_package(program, package_path=str(target), inductor_configs=dict(_OPTIONS))
    return Path(str(made))


def _load(package: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    model: Any = torch._inductor.aoti_load_package(str(package), run_single_threaded=True)
    return model.loader.run


def _keep_newest(folder: Path) -> None:
    """Remove the oldest packages, and what compilers that were killed left a day ago. Other processes may do the same at the same time."""
    packages = sorted(folder.glob("graph-*.pt2"), key=_time_of)
    for package in packages[:-KEPT]:
        package.unlink(missing_ok=True)
    for scratch in folder.glob("tmp*"):
        if _time_of(scratch) < time.time() - 86_400:
            shutil.rmtree(scratch, ignore_errors=True)


def _time_of(path: Path) -> float:
    """When it was used last; 0 for one that is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _drop_idle(module: GraphModule) -> None:
    """Take out what changes nothing: views of the same shape, products with 1, and what nobody uses."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and _is_idle(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _is_idle(node: Node) -> bool:
    if node.target is _aten.mul.Scalar:
        written = any(isinstance(user.target, OpOverload) and user.target._schema.is_mutable for user in node.users)
        return bool(node.args[1] == 1) and not written
    source = node.args[0]
    return node.target in _KEEP_SHAPE and isinstance(source, Node) and tuple(node.meta["val"].shape) == tuple(source.meta["val"].shape)
