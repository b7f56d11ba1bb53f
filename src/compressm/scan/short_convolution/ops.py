"""The short convolution as a PyTorch operator: gradients, and shapes for tracing.

As a registered operator it is one node to ``torch.compile`` and ``torch.export``.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from compressm.scan.short_convolution import cpu
from compressm.scan.short_convolution.cpu import Gradients


def _kernels(x: Tensor) -> Any:
    """The module whose ``convolve`` and ``convolve_backward`` serve x's device."""
    return importlib.import_module("compressm.scan.short_convolution.triton") if x.is_cuda else cpu


@torch.library.custom_op("compressm::short_convolution", mutates_args=())
def short_convolution_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """Outputs and final window."""
    y, final = _kernels(x).convolve(x, weight, bias, window, silu=silu)
    return y, final


@short_convolution_op.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    del bias, window, silu
    return x.new_empty(x.shape), x.new_empty(x.shape[0], x.shape[2], weight.shape[2] - 1)


@torch.library.custom_op("compressm::short_convolution_backward", mutates_args=())
def short_convolution_backward_op(
    grad_y: Tensor | None,
    grad_final: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Tensor | None,
    silu: bool,
) -> Gradients:
    """Gradients of x, weight, bias and window, whether given or not; the last empty without a window."""
    grads: Gradients = _kernels(x).convolve_backward(grad_y, grad_final, x, weight, bias, window, silu=silu)
    return grads


@short_convolution_backward_op.register_fake
def _(
    grad_y: Tensor | None,
    grad_final: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Tensor | None,
    silu: bool,
) -> Gradients:
    del grad_y, grad_final, bias, silu
    grad_window = x.new_empty(0) if window is None else torch.empty_like(window)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(x.shape[2]), grad_window


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    del output
    *operands, ctx.silu = inputs
    ctx.save_for_backward(*operands)
    # A loss that ignores the final window must not pay for its gradient.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None) -> tuple[Any, ...]:
    if grad_y is None and grad_final is None:
        return (None,) * 5
    operands = ctx.saved_tensors
    grads = short_convolution_backward_op(grad_y, grad_final, *operands, ctx.silu)
    return *(None if x is None else grad for grad, x in zip(grads, operands, strict=True)), None


short_convolution_op.register_autograd(_backward, setup_context=_setup)
