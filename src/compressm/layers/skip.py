"""The skip term ``D u`` of a linear layer, added to its outputs."""

import importlib
from typing import Any

import torch
from torch import Tensor

from compressm.scan.runtime.tiles import on_triton


def add_skip(y: Tensor, u: Tensor, D: Tensor) -> Tensor:
    """``y + D u``.

    Backward PyTorch makes six passes over memory, for the gradient of ``u``, and for the products and sums of
    that of ``D``. On a CUDA device one kernel makes both in three.

    Args:
        y: Outputs ``(..., H)``.
        u: Inputs of the same shape.
        D: ``(H,)``.
    """
    if not (on_triton(y) and on_triton(u)):
        return torch.addcmul(y, u, D)
    out: Tensor = skip_op(y, u, D)
    return out


@torch.library.custom_op("compressm::skip", mutates_args=())
def skip_op(y: Tensor, u: Tensor, D: Tensor) -> Tensor:
    """``y + D u``, in y's type."""
    if y.device.type == "cuda":
        on_cuda: Tensor = _on_cuda().skip(y, u, D)
        return on_cuda
    return torch.addcmul(y, u, D)


@torch.library.custom_op("compressm::skip_backward", mutates_args=())
def skip_backward_op(grad: Tensor, u: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of u and D."""
    if grad.device.type == "cuda":
        grad_u, grad_D = _on_cuda().skip_backward(grad, u, D)
        return grad_u, grad_D
    return grad * D, (grad * u).flatten(0, -2).sum(0)


def _on_cuda() -> Any:
    return importlib.import_module("compressm.layers.skip_triton")


@skip_op.register_fake
def _(y: Tensor, u: Tensor, D: Tensor) -> Tensor:
    del u, D
    return torch.empty_like(y, memory_format=torch.contiguous_format)


@skip_backward_op.register_fake
def _(grad: Tensor, u: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    del grad
    return torch.empty_like(u, memory_format=torch.contiguous_format), torch.empty_like(D)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    _, u, D = inputs
    ctx.save_for_backward(u, D)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, D = ctx.saved_tensors
    return grad, *skip_backward_op(grad, u, D)


skip_op.register_autograd(_differentiate, setup_context=_save)
