"""A gated recurrent unit over a window, with its gradient by hand: one operation for autograd, a compiler and stacked seeds alike.

Per step, with h' = keep_t h_{t-1} (the memory, zero where an episode starts) and g = W h' + b in three parts:

    r = sigmoid(x_r + g_r),   z = sigmoid(x_z + g_z),   n = tanh(x_n + r g_n),   h_t = n + z (h' - n)

Backwards, with d = dL/dh_t: everything that does not depend on d is computed for all steps at once; a step then costs a few
products and one matrix product. Axes: set (of weights: an agent's own, a seed's), time, row, feature.
"""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .kernels import gru_library


@torch.library.custom_op("teamcredit::gru_scan", mutates_args=())
def gru_scan(projected: Tensor, keep: Tensor, start: Tensor, weight: Tensor, bias: Tensor, fast: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Memories (set, time, row, hidden) after each step; the gates r, z, n side by side; and g_n.

    `projected` (set, time, row, 3 hidden) are the inputs' products, `keep` (set, time, row, 1) is 0 where an episode starts, else 1,
    `start` (set, row, hidden), `weight` (set, 3 hidden, hidden), `bias` (set, 3 hidden). `fast`: by the C++ loops.
    """
    if fast:
        return _fast_forward(projected, keep, start, weight, bias)
    hidden = projected.shape[-1] // 3
    memories, of_new = (projected.new_empty(*projected.shape[:-1], hidden) for _ in range(2))
    gates = torch.empty_like(projected)
    down, shift, memory = weight.transpose(1, 2), bias.unsqueeze(1), start
    steps = (projected, keep, memories, *gates.split((2 * hidden, hidden), -1), of_new)
    for x, kept, after, both, new, product_new in zip(*(value.unbind(1) for value in steps), strict=True):
        memory = memory * kept
        product = torch.baddbmm(shift, memory, down)
        torch.add(x[..., : 2 * hidden], product[..., : 2 * hidden], out=both).sigmoid_()
        product_new.copy_(product[..., 2 * hidden :])
        torch.addcmul(x[..., 2 * hidden :], both[..., :hidden], product_new, out=new).tanh_()
        memory = torch.lerp(new, memory, both[..., hidden:], out=after)
    return memories, gates, of_new


@gru_scan.register_fake
def _(projected: Tensor, keep: Tensor, start: Tensor, weight: Tensor, bias: Tensor, fast: bool) -> tuple[Tensor, Tensor, Tensor]:
    hidden = projected.shape[-1] // 3
    memories, of_new = (projected.new_empty(*projected.shape[:-1], hidden) for _ in range(2))
    return memories, torch.empty_like(projected), of_new


@torch.library.custom_op("teamcredit::gru_scan_backward", mutates_args=())
def gru_scan_backward(
    grad: Tensor, memories: Tensor, gates: Tensor, of_new: Tensor, keep: Tensor, start: Tensor, weight: Tensor, fast: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by `projected`, by W h' + b (set, time, row, 3 hidden), and by `start`."""
    if fast:
        return _fast_backward(grad, memories, gates, of_new, keep, start, weight)
    hidden = memories.shape[-1]
    before = torch.cat((start.unsqueeze(1), memories[:, :-1]), 1) * keep
    reset, update, new = gates.split(hidden, -1)
    to_new = (1 - update) * (1 - new * new)
    to_update = (before - new) * update * (1 - update)
    to_reset = of_new * reset * (1 - reset)
    of_projected, of_product = torch.empty_like(gates), torch.empty_like(gates)
    steps = (grad, keep, to_new, to_update, to_reset, reset, update, of_projected[..., 2 * hidden :], of_product)
    back = torch.zeros_like(start)
    backwards = (value.unbind(1)[::-1] for value in steps)
    for d, kept, by_new, by_update, by_reset, r, z, d_new, d_product in zip(*backwards, strict=True):
        back = back + d
        torch.mul(back, by_new, out=d_new)
        torch.mul(d_new, by_reset, out=d_product[..., :hidden])
        torch.mul(back, by_update, out=d_product[..., hidden : 2 * hidden])
        torch.mul(d_new, r, out=d_product[..., 2 * hidden :])
        back = torch.baddbmm(back.mul_(z), d_product, weight).mul_(kept)
    of_projected[..., : 2 * hidden] = of_product[..., : 2 * hidden]
    return of_projected, of_product, back


@gru_scan_backward.register_fake
def _(
    grad: Tensor, memories: Tensor, gates: Tensor, of_new: Tensor, keep: Tensor, start: Tensor, weight: Tensor, fast: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(gates), torch.empty_like(gates), torch.empty_like(start)


def _backward(ctx, grad, grad_gates, grad_of_new):
    memories, gates, of_new, keep, start, weight = ctx.saved_tensors
    of_projected, of_product, of_start = gru_scan_backward(grad, memories, gates, of_new, keep, start, weight, ctx.fast)
    before = (torch.cat((start.unsqueeze(1), memories[:, :-1]), 1) * keep).flatten(1, 2)
    flat = of_product.flatten(1, 2)
    return of_projected, None, of_start, flat.transpose(1, 2) @ before, flat.sum(1), None


def _save(ctx, inputs, output) -> None:
    _, keep, start, weight, _, ctx.fast = inputs
    ctx.save_for_backward(*output, keep, start, weight)


gru_scan.register_autograd(_backward, setup_context=_save)


@gru_scan.register_vmap
def _(info, in_dims, *inputs):
    """Seeds (whatever is mapped over) are more sets of weights."""
    *tensors, fast = inputs
    leading = [
        value.unsqueeze(0).expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
        for value, dim in zip(tensors, in_dims[:-1], strict=True)
    ]
    outputs = gru_scan(*(value.flatten(0, 1) for value in leading), fast)
    return tuple(value.unflatten(0, (info.batch_size, -1)) for value in outputs), (0, 0, 0)


def _fast_forward(projected: Tensor, keep: Tensor, start: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    time, rows, hidden = *projected.shape[1:3], start.shape[-1]
    inputs = [value.contiguous() for value in (projected, keep, start, weight.transpose(1, 2), bias)]
    memories, of_new = (projected.new_empty(*projected.shape[:-1], hidden) for _ in range(2))
    outputs = (memories, torch.empty_like(inputs[0]), of_new)
    _call(gru_library().gru_forward, (*inputs, *outputs), time, rows, hidden)
    return outputs


def _fast_backward(
    grad: Tensor, memories: Tensor, gates: Tensor, of_new: Tensor, keep: Tensor, start: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    time, rows, hidden = memories.shape[1:]
    inputs = [value.contiguous() for value in (grad, memories, gates, of_new, keep, start, weight)]
    outputs = torch.empty_like(inputs[2]), torch.empty_like(inputs[2]), torch.empty_like(inputs[5])
    _call(gru_library().gru_backward, (*inputs, *outputs), time, rows, hidden)
    return outputs


def _call(function: Any, tensors: tuple[Tensor, ...], *sizes: int) -> None:
    """Once per set of weights; every tensor is contiguous float32 on the CPU, its first axis the set."""
    counts = [ctypes.c_long(size) for size in sizes]
    for index in range(len(tensors[0])):
        function(*(ctypes.c_void_p(value[index].data_ptr()) for value in tensors), *counts)


def can_be_fast(weight: Tensor) -> bool:
    """Whether the C++ loops take weights like these: float32 on the CPU, the hidden width a multiple of 16."""
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.shape[-1] % 16 == 0


def unroll(
    projected: Float[Tensor, "set time row gates"],
    keep: Float[Tensor, "set time row 1"],
    start: Float[Tensor, "set row hidden"],
    weight: Float[Tensor, "set gates hidden"],
    bias: Float[Tensor, "set gates"],
    *,
    fast: bool = False,
) -> Float[Tensor, "set time row hidden"]:
    """The memories after each step."""
    return gru_scan(projected, keep, start, weight, bias, fast)[0]
