"""The short convolution on a CPU: kernels on operands where they lie.

Inputs, outputs and their gradients are float32 or bfloat16; sums, filters and windows are float32 in kernels.
"""

import torch
from torch import Tensor

from compressm.scan.runtime import Kernel, run_kernel, stored
from compressm.scan.runtime.widths import LANES
from compressm.scan.short_convolution.layout import blocks_of, groups_of

FORWARD = stored("compressm.scan.short_convolution.forward_kernel", "forward")
BACKWARD = stored("compressm.scan.short_convolution.backward_kernel", "backward")
SMALL = 1 << 15  # inputs: fewer are done before a second thread has started

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None, *, silu: bool
) -> tuple[Tensor, Tensor]:
    """Outputs and final window."""
    sizes, given = _words(x, weight, bias, window, silu=silu)
    y = x.new_empty(x.shape)
    final = x.new_empty(x.shape[0], x.shape[2], weight.shape[2] - 1, dtype=torch.float32)
    _run(FORWARD[x.dtype], x, [*sizes, *_addresses(*given, y, final)])
    return y, final.to(x.dtype)


def convolve_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None, *, silu: bool,
    grad_x: Tensor | None = None,
) -> Gradients:  # fmt: skip
    """Gradients of x, weight, bias (whether there is one or not) and window (empty without one).

    ``grad_x``, where given, is where the first goes: rows of neighbours, which may be parts of longer ones.
    """
    sizes, given = _words(x, weight, bias, window, silu=silu)
    (batch, L, channels), K = x.shape, weight.shape[2]
    grad_y = x.new_zeros(x.shape) if grad_y is None else _by_rows(grad_y)
    grad_final = None if grad_final is None else grad_final.float().contiguous()
    grad_x = x.new_empty(x.shape) if grad_x is None else grad_x
    sums = x.new_zeros(batch * groups_of(batch, L), K + 1, blocks_of(channels) * LANES, dtype=torch.float32)
    grad_window = weight.new_empty(0 if window is None else (batch, channels, K - 1), dtype=torch.float32)
    words = [*sizes, *grad_y.stride()[:2], *grad_x.stride()[:2], int(grad_final is not None)]
    addresses = _addresses(*given, grad_y, grad_final, grad_x, sums, grad_window)
    _run(BACKWARD[x.dtype], x, [*words, *addresses])
    total = sums.sum(0)[:, :channels].to(weight.dtype)
    grad_weight = total[:K].mT[:, None].clone(memory_format=torch.contiguous_format)
    return grad_x, grad_weight, total[K].clone(), grad_window.to(x.dtype if window is None else window.dtype)


def _words(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None, *, silu: bool
) -> tuple[list[int], tuple[Tensor | None, ...]]:
    """Sizes and strides in the kernels' order, and the operands that they read."""
    (batch, L, channels), x = x.shape, _by_rows(x)
    sizes = [batch, L, channels, weight.shape[2], groups_of(batch, L), int(silu), x.stride(0), x.stride(1)]
    given = [x, *(None if v is None else v.float().contiguous() for v in (weight, bias, window))]
    return [*sizes, int(bias is not None), int(window is not None)], tuple(given)


def _by_rows(x: Tensor) -> Tensor:
    """The same numbers, with channels side by side; rows and sequences may lie anywhere."""
    return x if x.stride(2) == 1 else x.contiguous()


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if x is None else x.data_ptr() for x in tensors]


def _run(kernel: Kernel, x: Tensor, words: list[int]) -> None:
    items = x.shape[0] * groups_of(x.shape[0], x.shape[1])
    run_kernel(kernel, words, 1 if x.numel() < SMALL else min(torch.get_num_threads(), items))
