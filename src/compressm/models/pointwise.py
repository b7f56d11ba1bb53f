"""The pointwise parts of a block: GELU with dropout, and gate with dropout and residual.

PyTorch's own operators make a pass over memory each (dropout three, and its random numbers cost more than the
matrix products of a small model); these make one, with dropout or without. On a CPU they are kernels in
Numba, on a CUDA device in Triton. Plain PyTorch serves what the kernels do not: other devices and types, and
a handful of elements.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.models.pointwise_ops import gate_op, gelu_op, glu_op, serves

MAX_ELEMENTS = 1 << 32  # dropout numbers elements in 32 bits
WORTH_A_KERNEL = 1 << 12
# From so many channels on a gate's two operands are halves of one matrix, made by one product and read in
# place. Below, rows of a half are too short for vectors, and two products give two matrices without gaps.
ONE_PRODUCT = 64


def gelu_dropout(y: Tensor, p: float) -> Tensor:
    """``dropout(gelu(y))``; each element is dropped on its own, with probability ``p`` in ``[0, 1)``.

    On the kernels ``p`` is rounded to a multiple of 2^-32 and the scale belongs to the rounded value. On a
    CPU under autocast they give bfloat16.
    """
    if not _served(y, p):
        return F.dropout(F.gelu(y), p)
    # Autocast takes it to a product in bfloat16: rounded here, it passes through memory once and in half.
    half = (
        y.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
    out: Tensor = gelu_op(y, seed_for(y, p), p, half)
    return out


def gate_dropout_residual(x: Tensor, a: Tensor, b: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``; dropout as in :func:`gelu_dropout`."""
    if not _served(x, p, a, b):
        return x + F.dropout(a * torch.sigmoid(b), p)
    out: Tensor = gate_op(x, a, b, seed_for(x, p), p)
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
    if not _served(x, p, hidden):
        return _gate(x, F.linear(hidden, weight, bias), p)
    # The kernels have the product at hand, to add the bias and to sum its gradient; a product with a bias
    # would have it written once and read once more. Under autocast it may be in half precision.
    both = F.linear(hidden, weight)
    if not _served(x, p, both):
        return _gate(x, both + bias, p)
    out: Tensor = glu_op(x, both, bias, seed_for(x, p), p)
    return out


def _gate(x: Tensor, both: Tensor, p: float) -> Tensor:
    """In plain PyTorch. Under autocast the product may be in half precision; the residual stream is not."""
    a, b = both.to(x.dtype).chunk(2, dim=-1)
    return x + F.dropout(a * torch.sigmoid(b), p)


def _served(x: Tensor, p: float, *products: Tensor) -> bool:
    if not serves(x, *products) or x.numel() >= MAX_ELEMENTS:
        return False
    # Without dropout the gain is in the passes over memory, and a few steps of a stream have none to save.
    return x.numel() > 0 if p > 0 else x.numel() >= WORTH_A_KERNEL


def seed_for(like: Tensor, p: float) -> Tensor:
    """64 random bits from PyTorch's generator, so that ``torch.manual_seed`` decides the mask."""
    if p == 0:
        return torch.empty(1, dtype=torch.int64, device=like.device)
    return torch.randint(-(2**63), 2**63 - 1, (1,), device=like.device)
