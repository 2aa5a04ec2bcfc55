"""A function of tensors as the list of operations it came to, recorded once: no mapping, no modules, no autograd when it runs again.

That is the eager way of stacked seeds: mapping a network over seeds costs a multiple of its small operations each time. No compiler
is needed. What is recorded depends on shapes and strides alone; a call with new ones is recorded anew.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

_aten = torch.ops.aten
_KEEP_SHAPE = (_aten.view.default, _aten._unsafe_view.default, _aten.expand.default)


def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of trees (dicts, tuples) of tensors. It may write into its inputs; it must not look into them with Python."""
    lists: dict[Any, Callable[..., Any]] = {}

    def call(*inputs: Any) -> Any:
        leaves, form = pytree.tree_flatten(inputs)
        key = (form, *((leaf.shape, leaf.stride()) for leaf in leaves))
        if key not in lists:
            lists[key] = _record(lambda *flat: function(*pytree.tree_unflatten(flat, form)), leaves)
        with torch.no_grad():
            return lists[key](*leaves)

    return call


def _record(function: Callable[..., Any], leaves: list[Tensor]) -> Callable[..., Any]:
    """The operations of one call; recording runs them, so it works on copies."""
    copies = [leaf.new_empty_strided(leaf.shape, leaf.stride()).copy_(leaf.detach()).requires_grad_(leaf.requires_grad) for leaf in leaves]
    module = make_fx(function)(*copies)
    _drop_idle(module)
    return module.forward


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
        return bool(node.args[1] == 1)
    source = node.args[0]
    return node.target in _KEEP_SHAPE and isinstance(source, Node) and tuple(node.meta["val"].shape) == tuple(source.meta["val"].shape)
