"""A gated recurrent layer over a window, with its gradient by hand: one operation for autograd, a compiler and stacked seeds alike.

Per step, with h' = keep_t h_{t-1} (the memory, zero where an episode starts), a = W_x x + b_x and g = W_h h' + b_h in three parts:

    r = sigmoid(a_r + g_r),   z = sigmoid(a_z + g_z),   n = tanh(a_n + r g_n),   h_t = n + z (h' - n)

Backwards, with d = dL/dh_t: everything that does not depend on d is computed for all steps at once; a step then costs a few
products and one matrix product. Axes: set (of weights: an agent's own, a seed's), time, row, feature.
"""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .kernels import gru_library


@torch.library.custom_op("teamcredit::gru_layer", mutates_args=())
def gru_layer(
    x: Tensor, keep: Tensor, start: Tensor, of_x: Tensor, of_memory: Tensor, bias_x: Tensor, bias_memory: Tensor, fast: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Memories (set, time, row, hidden) after each step; and, to `save` them for a gradient, the gates r, z, n side by side and g_n.

    `x` (set, time, row, input), `keep` (set, time, row, 1) is 0 where an episode starts, else 1, `start` (set, row, hidden), the weights
    `of_x` (set, 3 hidden, input) and `of_memory` (set, 3 hidden, hidden) with their biases (set, 3 hidden). `fast`: by the C++ loops.
    """
    if fast:
        return _fast_forward(x, keep, start, of_x, of_memory, bias_x, bias_memory, save)
    hidden = start.shape[-1]
    memories, gates, of_new = _places(x, start, save=True)
    projected = torch.baddbmm(bias_x.unsqueeze(1), x.flatten(1, 2), of_x.transpose(1, 2)).unflatten(1, x.shape[1:3])
    down, shift, memory = of_memory.transpose(1, 2), bias_memory.unsqueeze(1), start
    steps = (projected, keep, memories, *gates.split((2 * hidden, hidden), -1), of_new)
    for row, kept, after, both, new, product_new in zip(*(value.unbind(1) for value in steps), strict=True):
        memory = memory * kept
        product = torch.baddbmm(shift, memory, down)
        torch.add(row[..., : 2 * hidden], product[..., : 2 * hidden], out=both).sigmoid_()
        product_new.copy_(product[..., 2 * hidden :])
        torch.addcmul(row[..., 2 * hidden :], both[..., :hidden], product_new, out=new).tanh_()
        memory = torch.lerp(new, memory, both[..., hidden:], out=after)
    return (memories, gates, of_new) if save else (memories, *_places(x, start, save=False)[1:])


def _places(x: Tensor, start: Tensor, *, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for what `gru_layer` gives; nothing for what need not be saved."""
    lead, hidden = x.shape[:-1], start.shape[-1]
    saved = hidden if save else 0
    return x.new_empty(*lead, hidden), x.new_empty(*lead, 3 * saved), x.new_empty(*lead, saved)


@gru_layer.register_fake
def _(
    x: Tensor, keep: Tensor, start: Tensor, of_x: Tensor, of_memory: Tensor, bias_x: Tensor, bias_memory: Tensor, fast: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _places(x, start, save=save)


@torch.library.custom_op("teamcredit::gru_layer_backward", mutates_args=())
def gru_layer_backward(
    grad: Tensor,
    x: Tensor,
    memories: Tensor,
    gates: Tensor,
    of_new: Tensor,
    keep: Tensor,
    start: Tensor,
    of_x: Tensor,
    of_memory: Tensor,
    fast: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by x, `start`, `of_x`, `of_memory` and both biases."""
    if fast:
        return _fast_backward(grad, x, memories, gates, of_new, keep, start, of_x, of_memory)
    hidden = memories.shape[-1]
    before = torch.cat((start.unsqueeze(1), memories[:, :-1]), 1) * keep
    reset, update, new = gates.split(hidden, -1)
    to_new = (1 - update) * (1 - new * new)
    to_update = (before - new) * update * (1 - update)
    to_reset = of_new * reset * (1 - reset)
    of_a, of_g = torch.empty_like(gates), torch.empty_like(gates)
    steps = (grad, keep, to_new, to_update, to_reset, reset, update, of_a[..., 2 * hidden :], of_g)
    back = torch.zeros_like(start)
    backwards = (value.unbind(1)[::-1] for value in steps)
    for d, kept, by_new, by_update, by_reset, r, z, d_new, d_g in zip(*backwards, strict=True):
        back = back + d
        torch.mul(back, by_new, out=d_new)
        torch.mul(d_new, by_reset, out=d_g[..., :hidden])
        torch.mul(back, by_update, out=d_g[..., hidden : 2 * hidden])
        torch.mul(d_new, r, out=d_g[..., 2 * hidden :])
        back = torch.baddbmm(back.mul_(z), d_g, of_memory).mul_(kept)
    of_a[..., : 2 * hidden] = of_g[..., : 2 * hidden]
    by_x, by_memory, rows = of_a.flatten(1, 2), of_g.flatten(1, 2), (x.flatten(1, 2), before.flatten(1, 2))
    weights = torch.bmm(by_x.transpose(1, 2), rows[0]), torch.bmm(by_memory.transpose(1, 2), rows[1])
    return torch.bmm(by_x, of_x).unflatten(1, x.shape[1:3]), back, *weights, by_x.sum(1), by_memory.sum(1)


def _places_backward(x: Tensor, start: Tensor, of_x: Tensor, of_memory: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Memory for what `gru_layer_backward` gives."""
    shapes = x.shape, start.shape, of_x.shape, of_memory.shape, of_x.shape[:2], of_memory.shape[:2]
    a, b, c, d, e, f = (x.new_empty(shape) for shape in shapes)
    return a, b, c, d, e, f


@gru_layer_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    memories: Tensor,
    gates: Tensor,
    of_new: Tensor,
    keep: Tensor,
    start: Tensor,
    of_x: Tensor,
    of_memory: Tensor,
    fast: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _places_backward(x, start, of_x, of_memory)


def _backward(ctx, grad, grad_gates, grad_of_new):
    grad_x, grad_start, *of_weights = gru_layer_backward(grad, *ctx.saved_tensors, ctx.fast)
    return grad_x, None, grad_start, *of_weights, None, None


def _save(ctx, inputs, output) -> None:
    x, keep, start, of_x, of_memory, _, _, ctx.fast, save = inputs
    assert save, "a window that was not saved has no gradient"
    ctx.save_for_backward(x, *output, keep, start, of_x, of_memory)


gru_layer.register_autograd(_backward, setup_context=_save)


@gru_layer.register_vmap
def _(info, in_dims, *inputs):
    """Seeds (whatever is mapped over) are more sets of weights."""
    *tensors, fast, save = inputs
    leading = [
        value.unsqueeze(0).expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
        for value, dim in zip(tensors, in_dims[:-2], strict=True)
    ]
    outputs = gru_layer(*(value.flatten(0, 1) for value in leading), fast, save)
    return tuple(value.unflatten(0, (info.batch_size, -1)) for value in outputs), (0, 0, 0)


def _fast_forward(
    x: Tensor, keep: Tensor, start: Tensor, of_x: Tensor, of_memory: Tensor, bias_x: Tensor, bias_memory: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _places(x, start, save=save)
    _call(gru_library().gru_forward, (x, keep, start, of_x, of_memory, bias_x, bias_memory), outputs, x, start)
    return outputs


def _fast_backward(
    grad: Tensor, x: Tensor, memories: Tensor, gates: Tensor, of_new: Tensor, keep: Tensor, start: Tensor, of_x: Tensor, of_memory: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    outputs = _places_backward(x, start, of_x, of_memory)
    inputs = (grad, x, memories, gates, of_new, keep, start, of_x, of_memory)
    _call(gru_library().gru_backward, inputs, outputs, x, start)
    return outputs


def _call(function: Any, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], x: Tensor, start: Tensor) -> None:
    """With the address of each tensor (0 for an empty one); all are float32 on the CPU."""
    plain = [value.contiguous() for value in inputs]
    addresses = (ctypes.c_void_p(value.data_ptr() or None) for value in (*plain, *outputs))
    function(*addresses, *(ctypes.c_long(size) for size in (*x.shape, start.shape[-1], torch.get_num_threads())))


def can_be_fast(of_x: Tensor, of_memory: Tensor) -> bool:
    """Whether the C++ loops take weights like these: float32 on the CPU, inputs and hidden units in multiples of 16."""
    here = of_memory.dtype == torch.float32 and of_memory.device.type == "cpu"
    return here and of_memory.shape[-1] % 16 == 0 and of_x.shape[-1] % 16 == 0


def unroll(
    x: Float[Tensor, "set time row input"],
    keep: Float[Tensor, "set time row 1"],
    start: Float[Tensor, "set row hidden"],
    of_x: Float[Tensor, "set gates input"],
    of_memory: Float[Tensor, "set gates hidden"],
    bias_x: Float[Tensor, "set gates"],
    bias_memory: Float[Tensor, "set gates"],
    *,
    fast: bool = False,
) -> Float[Tensor, "set time row hidden"]:
    """The memories after each step."""
    return gru_layer(x, keep, start, of_x, of_memory, bias_x, bias_memory, fast, torch.is_grad_enabled())[0]
