"""The pointwise parts of a block as operators: GELU with dropout, and gate with dropout and residual.

PyTorch's own operators make a pass over memory each (dropout three, and its random numbers cost more than the
matrix products of a small model); these make one. Plain PyTorch serves what the kernels do not: other devices
and types, and evaluation.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.scan.runtime import Kernel, run_kernel

MAX_ELEMENTS = 1 << 32  # dropout numbers elements in 32 bits


_KERNELS = "compressm.models.pointwise_kernels"
_GELU, _GELU_BACKWARD = Kernel(_KERNELS, "gelu_dropout"), Kernel(_KERNELS, "gelu_dropout_backward")
_GATE, _GATE_BACKWARD = Kernel(_KERNELS, "gate"), Kernel(_KERNELS, "gate_backward")


def gelu_dropout(y: Tensor, p: float) -> Tensor:
    """``dropout(gelu(y))``; each element is dropped on its own, with probability ``p`` in ``[0, 1)``.

    On the kernels ``p`` is rounded to a multiple of 2^-32 and the scale belongs to the rounded value.
    """
    if p == 0 or not _served(y):
        return F.dropout(F.gelu(y), p)
    out: Tensor = _gelu_dropout(y, _seed(y), p)
    return out


def gate_dropout_residual(x: Tensor, a: Tensor, b: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``; dropout as in :func:`gelu_dropout`."""
    if p == 0 or not (_served(x) and _served(a) and _served(b)):
        return x + F.dropout(a * torch.sigmoid(b), p)
    out: Tensor = _gate(x, a, b, _seed(x), p)
    return out


def _served(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and 0 < x.numel() < MAX_ELEMENTS


def _seed(like: Tensor) -> Tensor:
    """64 random bits from PyTorch's generator, so that ``torch.manual_seed`` decides the mask."""
    return torch.randint(-(2**63), 2**63 - 1, (1,), device=like.device)


def _dropout_words(count: int, seed: Tensor, p: float) -> list[int]:
    threshold = min(round(p * 2**32), 2**32 - 1)
    scale = round(2**32 / (1 - threshold / 2**32))
    return [count, int(seed.item()), threshold, scale]


def _run(kernel: Kernel, words: list[int], *tensors: Tensor) -> None:
    threads = torch.get_num_threads() if tensors[0].numel() >= 1 << 14 else 1
    run_kernel(kernel, [*words, *(tensor.data_ptr() for tensor in tensors)], threads)


@torch.library.custom_op("compressm::gelu_dropout", mutates_args=())
def _gelu_dropout(y: Tensor, seed: Tensor, p: float) -> Tensor:
    y = y.contiguous()
    out = torch.empty_like(y)
    _run(_GELU, _dropout_words(y.numel(), seed, p), y, out)
    return out


@torch.library.custom_op("compressm::gelu_dropout_backward", mutates_args=())
def _gelu_dropout_backward(y: Tensor, grad: Tensor, seed: Tensor, p: float) -> Tensor:
    y, grad = y.contiguous(), grad.contiguous()
    grad_y = torch.empty_like(y)
    _run(_GELU_BACKWARD, _dropout_words(y.numel(), seed, p), y, grad, grad_y)
    return grad_y


@torch.library.custom_op("compressm::gate_dropout_residual", mutates_args=())
def _gate(x: Tensor, a: Tensor, b: Tensor, seed: Tensor, p: float) -> Tensor:
    x, a, b = x.contiguous(), a.contiguous(), b.contiguous()
    out = torch.empty_like(x)
    _run(_GATE, _dropout_words(x.numel(), seed, p), x, a, b, out)
    return out


@torch.library.custom_op("compressm::gate_dropout_residual_backward", mutates_args=())
def _gate_backward(a: Tensor, b: Tensor, grad: Tensor, seed: Tensor, p: float) -> tuple[Tensor, Tensor]:
    a, b, grad = a.contiguous(), b.contiguous(), grad.contiguous()
    grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
    _run(_GATE_BACKWARD, _dropout_words(a.numel(), seed, p), a, b, grad, grad_a, grad_b)
    return grad_a, grad_b


@_gelu_dropout.register_fake
def _(y: Tensor, seed: Tensor, p: float) -> Tensor:
    del seed, p
    return torch.empty_like(y, memory_format=torch.contiguous_format)


@_gelu_dropout_backward.register_fake
def _(y: Tensor, grad: Tensor, seed: Tensor, p: float) -> Tensor:
    del grad, seed, p
    return torch.empty_like(y, memory_format=torch.contiguous_format)


@_gate.register_fake
def _(x: Tensor, a: Tensor, b: Tensor, seed: Tensor, p: float) -> Tensor:
    del a, b, seed, p
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_gate_backward.register_fake
def _(a: Tensor, b: Tensor, grad: Tensor, seed: Tensor, p: float) -> tuple[Tensor, Tensor]:
    del b, grad, seed, p
    like = torch.empty_like(a, memory_format=torch.contiguous_format)
    return like, torch.empty_like(like)


def _save_gelu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    y, seed, ctx.p = inputs
    ctx.save_for_backward(y, seed)


def _differentiate_gelu(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    y, seed = ctx.saved_tensors
    return _gelu_dropout_backward(y, grad, seed, ctx.p), None, None


def _save_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    _, a, b, seed, ctx.p = inputs
    ctx.save_for_backward(a, b, seed)


def _differentiate_gate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    a, b, seed = ctx.saved_tensors
    return grad, *_gate_backward(a, b, grad, seed, ctx.p), None, None


_gelu_dropout.register_autograd(_differentiate_gelu, setup_context=_save_gelu)
_gate.register_autograd(_differentiate_gate, setup_context=_save_gate)
