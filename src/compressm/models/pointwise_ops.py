"""The pointwise parts of a block as PyTorch operators: gradients, and shapes for tracing.

``seed`` holds 64 random bits, on the device that uses them: nothing waits for the device to read them, and
the backward pass draws the same mask from them again.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from compressm.models import pointwise_cpu
from compressm.scan.runtime import STORED
from compressm.scan.runtime.tiles import on_triton


def serves(x: Tensor, *products: Tensor) -> bool:
    """Whether there are kernels for this tensor and what products have made for it.

    On a CPU the tensor is float32; products are, or they are in bfloat16, as autocast makes them.
    """
    if x.device.type == "cpu":
        types = {product.dtype for product in products}
        return x.dtype == torch.float32 and len(types) <= 1 and types <= set(STORED)
    return all(on_triton(given) for given in (x, *products))


def _kernels(like: Tensor) -> Any:
    """The module that serves the tensor's device."""
    cuda = like.device.type == "cuda"
    return importlib.import_module("compressm.models.pointwise_triton") if cuda else pointwise_cpu


def _contiguous(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format)


@torch.library.custom_op("compressm::gelu_dropout", mutates_args=())
def gelu_op(y: Tensor, seed: Tensor, p: float, half: bool = False) -> Tensor:
    """``dropout(gelu(y))``, with ``half`` in bfloat16."""
    out: Tensor = _kernels(y).gelu(y, seed, p, half)
    return out


@torch.library.custom_op("compressm::gelu_dropout_backward", mutates_args=())
def gelu_backward_op(y: Tensor, grad: Tensor, seed: Tensor, p: float) -> Tensor:
    """Gradient of y."""
    grad_y: Tensor = _kernels(y).gelu_backward(y, grad, seed, p)
    return grad_y


@torch.library.custom_op("compressm::gate_dropout_residual", mutates_args=())
def gate_op(x: Tensor, a: Tensor, b: Tensor, seed: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``."""
    out: Tensor = _kernels(x).gate(x, a, b, seed, p)
    return out


@torch.library.custom_op("compressm::gate_dropout_residual_backward", mutates_args=())
def gate_backward_op(a: Tensor, b: Tensor, grad: Tensor, seed: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Gradients of a and b."""
    grad_a, grad_b = _kernels(a).gate_backward(a, b, grad, seed, p)
    return grad_a, grad_b


@torch.library.custom_op("compressm::glu_dropout_residual", mutates_args=())
def glu_op(x: Tensor, both: Tensor, bias: Tensor, seed: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``, a and b being the halves of ``both + bias``."""
    out: Tensor = _kernels(x).glu(x, both, bias, seed, p)
    return out


@torch.library.custom_op("compressm::glu_dropout_residual_backward", mutates_args=())
def glu_backward_op(
    both: Tensor, bias: Tensor, grad: Tensor, seed: Tensor, p: float
) -> tuple[Tensor, Tensor]:
    """Gradients of ``both`` and of the bias."""
    grad_both, grad_bias = _kernels(both).glu_backward(both, bias, grad, seed, p)
    return grad_both, grad_bias


@gelu_op.register_fake
def _(y: Tensor, seed: Tensor, p: float, half: bool = False) -> Tensor:
    del seed, p
    return _contiguous(y, torch.bfloat16 if half else y.dtype)


@gelu_backward_op.register_fake
def _(y: Tensor, grad: Tensor, seed: Tensor, p: float) -> Tensor:
    del grad, seed, p
    return _contiguous(y)


@gate_op.register_fake
def _(x: Tensor, a: Tensor, b: Tensor, seed: Tensor, p: float) -> Tensor:
    del a, b, seed, p
    return _contiguous(x)


@gate_backward_op.register_fake
def _(a: Tensor, b: Tensor, grad: Tensor, seed: Tensor, p: float) -> tuple[Tensor, Tensor]:
    del grad, seed, p
    return _contiguous(a), _contiguous(b)


@glu_op.register_fake
def _(x: Tensor, both: Tensor, bias: Tensor, seed: Tensor, p: float) -> Tensor:
    del both, bias, seed, p
    return _contiguous(x)


@glu_backward_op.register_fake
def _(both: Tensor, bias: Tensor, grad: Tensor, seed: Tensor, p: float) -> tuple[Tensor, Tensor]:
    del grad, seed, p
    return _contiguous(both), _contiguous(bias)


def _save_gelu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    y, seed, ctx.p, _ = inputs
    ctx.save_for_backward(y, seed)


def _differentiate_gelu(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    y, seed = ctx.saved_tensors
    return gelu_backward_op(y, grad, seed, ctx.p), None, None, None


def _save_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    _, a, b, seed, ctx.p = inputs
    ctx.save_for_backward(a, b, seed)


def _differentiate_gate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    a, b, seed = ctx.saved_tensors
    return grad, *gate_backward_op(a, b, grad, seed, ctx.p), None, None


def _save_glu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    _, both, bias, seed, ctx.p = inputs
    ctx.save_for_backward(both, bias, seed)


def _differentiate_glu(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    both, bias, seed = ctx.saved_tensors
    grad_both, grad_bias = glu_backward_op(both, bias, grad, seed, ctx.p)
    return grad, grad_both, grad_bias, None, None


gelu_op.register_autograd(_differentiate_gelu, setup_context=_save_gelu)
gate_op.register_autograd(_differentiate_gate, setup_context=_save_gate)
glu_op.register_autograd(_differentiate_glu, setup_context=_save_glu)
