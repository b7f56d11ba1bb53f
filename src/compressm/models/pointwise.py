"""The pointwise parts of a block as operators: GELU with dropout, and gate with dropout and residual.

PyTorch's own operators make a pass over memory each (dropout three, and its random numbers cost more than the
matrix products of a small model); these make one, with dropout or without. Plain PyTorch serves what the
kernels do not: other devices and types, and a handful of elements.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.scan.runtime import Kernel, run_kernel

MAX_ELEMENTS = 1 << 32  # dropout numbers elements in 32 bits
WORTH_A_KERNEL = 1 << 12
# From so many channels on a gate's two operands are halves of one matrix, made by one product and read in
# place. Below, rows of a half are too short for vectors, and two products give two matrices without gaps.
ONE_PRODUCT = 64
ROW = 1024


_KERNELS = "compressm.models.pointwise_kernels"
_GELU, _GELU_BACKWARD = Kernel(_KERNELS, "gelu_dropout"), Kernel(_KERNELS, "gelu_dropout_backward")
_GATE, _GATE_BACKWARD = Kernel(_KERNELS, "gate"), Kernel(_KERNELS, "gate_backward")


def gelu_dropout(y: Tensor, p: float) -> Tensor:
    """``dropout(gelu(y))``; each element is dropped on its own, with probability ``p`` in ``[0, 1)``.

    On the kernels ``p`` is rounded to a multiple of 2^-32 and the scale belongs to the rounded value.
    """
    if not _served(y, p):
        return F.dropout(F.gelu(y), p)
    out: Tensor = _gelu_dropout(y, _seed(y, p), p)
    return out


def gate_dropout_residual(x: Tensor, a: Tensor, b: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``; dropout as in :func:`gelu_dropout`."""
    if not (_served(x, p) and _served(a, p) and _served(b, p)):
        return x + F.dropout(a * torch.sigmoid(b), p)
    out: Tensor = _gate(x, a, b, _seed(x, p), p)
    return out


def glu_dropout_residual(x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``, ``[a, b] = hidden weight^T + bias`` (gated linear unit).

    Args:
        x: ``(..., H)``.
        hidden: ``(..., K)``.
        weight: ``(2 H, K)``.
        bias: ``(2 H,)``.
        p: probability of dropout, as in :func:`gelu_dropout`.
    """
    if x.shape[-1] < ONE_PRODUCT:
        (value, gate), (value_bias, gate_bias) = weight.chunk(2), bias.chunk(2)
        return gate_dropout_residual(
            x, F.linear(hidden, value, value_bias), F.linear(hidden, gate, gate_bias), p
        )
    # Under autocast the product may be in half precision; the residual stream is not.
    both = F.linear(hidden, weight, bias).to(x.dtype)
    if not (_served(x, p) and _served(both, p)):
        a, b = both.chunk(2, dim=-1)
        return x + F.dropout(a * torch.sigmoid(b), p)
    out: Tensor = _glu(x, both, _seed(x, p), p)
    return out


def _served(x: Tensor, p: float) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() >= MAX_ELEMENTS:
        return False
    # Without dropout the gain is in the passes over memory, and a few steps of a stream have none to save.
    return x.numel() > 0 if p > 0 else x.numel() >= WORTH_A_KERNEL


def _seed(like: Tensor, p: float) -> Tensor:
    """64 random bits from PyTorch's generator, so that ``torch.manual_seed`` decides the mask."""
    if p == 0:
        return torch.zeros(1, dtype=torch.int64, device=like.device)
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
    _run_rows(_GATE, p, seed, x.shape[-1], False, x, a, b, out)
    return out


@torch.library.custom_op("compressm::gate_dropout_residual_backward", mutates_args=())
def _gate_backward(a: Tensor, b: Tensor, grad: Tensor, seed: Tensor, p: float) -> tuple[Tensor, Tensor]:
    a, b, grad = a.contiguous(), b.contiguous(), grad.contiguous()
    grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
    _run_rows(_GATE_BACKWARD, p, seed, a.shape[-1], False, a, b, grad, grad_a, grad_b)
    return grad_a, grad_b


@torch.library.custom_op("compressm::glu_dropout_residual", mutates_args=())
def _glu(x: Tensor, both: Tensor, seed: Tensor, p: float) -> Tensor:
    x, both = x.contiguous(), both.contiguous()
    out = torch.empty_like(x)
    _run_rows(_GATE, p, seed, x.shape[-1], True, x, *_halves(both), out)
    return out


@torch.library.custom_op("compressm::glu_dropout_residual_backward", mutates_args=())
def _glu_backward(both: Tensor, grad: Tensor, seed: Tensor, p: float) -> Tensor:
    both, grad = both.contiguous(), grad.contiguous()
    grad_both = torch.empty_like(both)
    _run_rows(_GATE_BACKWARD, p, seed, grad.shape[-1], True, *_halves(both), grad, *_halves(grad_both))
    return grad_both


def _halves(both: Tensor) -> tuple[Tensor, Tensor]:
    """Views that begin where the halves of the first row do."""
    return both, both[..., both.shape[-1] // 2 :]


def _run_rows(kernel: Kernel, p: float, seed: Tensor, width: int, joint: bool, *tensors: Tensor) -> None:
    """Run a kernel of the gate; ``joint``: a and b are halves of rows."""
    count = tensors[0].numel() if kernel is _GATE else tensors[2].numel()
    stride = 2 * width if joint else width
    if not joint:
        # Without gaps rows may be as long as is good for vectors and the cache.
        rows = count // width
        width = stride = width * max(k for k in range(1, max(1, ROW // width) + 1) if rows % k == 0)
    threads = torch.get_num_threads() if count >= 1 << 14 else 1
    words = [*_dropout_words(count, seed, p), width, stride]
    run_kernel(kernel, [*words, *(tensor.data_ptr() for tensor in tensors)], threads)


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


@_glu.register_fake
def _(x: Tensor, both: Tensor, seed: Tensor, p: float) -> Tensor:
    del both, seed, p
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_glu_backward.register_fake
def _(both: Tensor, grad: Tensor, seed: Tensor, p: float) -> Tensor:
    del grad, seed, p
    return torch.empty_like(both, memory_format=torch.contiguous_format)


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


def _save_glu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    _, both, seed, ctx.p = inputs
    ctx.save_for_backward(both, seed)


def _differentiate_glu(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    both, seed = ctx.saved_tensors
    return grad, _glu_backward(both, grad, seed, ctx.p), None, None


_gelu_dropout.register_autograd(_differentiate_gelu, setup_context=_save_gelu)
_gate.register_autograd(_differentiate_gate, setup_context=_save_gate)
_glu.register_autograd(_differentiate_glu, setup_context=_save_glu)
