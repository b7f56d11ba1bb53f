"""A norm and the linear map behind it, as a language model ends: on a CPU sequence by sequence."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.layers import rms_norm as norm
from compressm.models.rms_norm import RMSNorm
from compressm.scan.precision import at_least_float32
from compressm.scan.runtime import workers_share
from compressm.scan.runtime.program import Matrix, Place, Program, can_multiply, sum_of
from compressm.scan.runtime.tracing import bare, observed, plain

_LARGEST = 1 << 18
"""Weights up to which every sequence may read them anew, and add to their gradients."""

_FLOAT = 4


def normed_head(x: Tensor, norm_of: RMSNorm, weight: Tensor) -> Tensor:
    """``norm(x) weight^T``; under autocast in float32, which a loss wants, of products in half precision.

    Where no operator is watched and cores share the sequences, both are a program that each core takes its
    own through: rows that the norm makes are still in its cache when the product reads them, and a small
    vocabulary costs less than the operators around it did.

    Args:
        x: ``(..., H)``.
        norm_of: Over the last axis.
        weight: ``(V, H)``.

    Returns:
        ``(..., V)``.
    """
    if not head_served(x, norm_of, weight):
        made = F.linear(norm_of(x), weight)
        return at_least_float32(made) if torch.is_autocast_enabled(x.device.type) else made
    operands = (x, norm_of.weight, weight, norm.number(cast(float, norm_of.eps)), _dtype_of_products())
    logits: Tensor = _Head.apply(*operands)  # type: ignore[no-untyped-call]
    return logits


def _dtype_of_products() -> torch.dtype | None:
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    half = torch.get_autocast_dtype("cpu")
    return half if half == torch.bfloat16 else None


def head_served(x: Tensor, norm_of: RMSNorm, weight: Tensor) -> bool:
    """Whether a program may take the place of norm and product."""
    dtype = _dtype_of_products()
    return (
        dtype is not None
        and not observed()
        and bare(norm_of, RMSNorm)
        and plain(x, weight, norm_of.weight)
        and x.ndim == 3
        and x.numel() > 0
        and weight.shape[1] == x.shape[2]
        and weight.numel() <= _LARGEST
        and workers_share(x.shape[0])
        and can_multiply(dtype)
    )


class HeadSizes(NamedTuple):
    """Steps, channels, words of the vocabulary, and the type that products are made in."""

    L: int
    H: int
    V: int
    dtype: torch.dtype

    @property
    def half(self) -> bool:
        """Whether that is bfloat16."""
        return self.dtype == torch.bfloat16

    @property
    def number(self) -> int:
        """Bytes of a number of a product's operands."""
        return self.dtype.itemsize


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm_weight: Tensor, weight: Tensor, eps: Tensor, dtype: torch.dtype
    ) -> Tensor:
        x, (batch, L, H), V = x.contiguous(), x.shape, len(weight)
        sizes, norm_weight = HeadSizes(L, H, V, dtype), norm_weight.contiguous()
        program = _forward_program(sizes)
        given = {
            "x": x,
            "norm_weight": norm_weight,
            "weight": weight.to(dtype).contiguous(),
            "eps": eps,
            "kept": x.new_empty(batch, program.kept_bytes, dtype=torch.uint8),
        }
        logits = x.new_empty(batch, L, V)
        program.run(given | {"logits": logits}, batch, min(torch.get_num_threads(), batch))
        ctx.sizes, ctx.names = sizes, tuple(given)
        ctx.save_for_backward(*given.values())
        return logits

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        given, s = dict(zip(ctx.names, ctx.saved_tensors, strict=True)), ctx.sizes
        x, workers = given["x"], min(torch.get_num_threads(), len(given["x"]))
        made = {"grad": grad.contiguous(), "grad_x": torch.empty_like(x)}
        summed = sum_of(_backward_program(s).run(given | made, len(x), workers))
        total = summed[: (s.V + 1) * s.H].view(s.V + 1, s.H)
        return made["grad_x"], total[s.V], total[: s.V], None, None


class HeadRows(NamedTuple):
    """What both passes read, the norm's results among them."""

    norm: list[Any]  # x, weight of the norm, eps and what it divides by
    normed: Matrix
    weight: Matrix

    @classmethod
    def of(cls, program: Program, s: HeadSizes, x: Place, take: Callable[[int, int], Place]) -> "HeadRows":
        """Of inputs at ``x``; ``take`` gives memory for rows."""
        return cls(
            [x, program.operand("norm_weight"), program.operand("eps"), take(s.L, _FLOAT)],
            Matrix(take(s.L * s.H, s.number), s.L, s.H, s.H),
            Matrix(program.operand("weight"), s.V, s.H, s.H),
        )


@lru_cache(maxsize=64)
def _forward_program(s: HeadSizes) -> Program:
    program = Program()
    at = HeadRows.of(program, s, program.operand("x", per_item=s.L * s.H * _FLOAT), program.kept)
    logits = Matrix(program.operand("logits", per_item=s.L * s.V * _FLOAT), s.L, s.V, s.V)
    add_head(program, s, at, logits)
    return program


def add_head(program: Program, s: HeadSizes, at: HeadRows, logits: Matrix) -> None:
    """Let items pass norm and product next."""
    x, weight, eps, scale = at.norm
    with program.passing():
        normed = program.room(s.L * s.H, _FLOAT) if s.half else at.normed.place
        program.add(norm.FORWARD, [s.L, s.H, x, weight, eps, normed, scale])
        if s.half:
            program.narrow(normed, at.normed.place, s.L * s.H)
    program.multiply(at.normed, at.weight.T, logits, s.dtype)


@lru_cache(maxsize=64)
def _backward_program(s: HeadSizes) -> Program:
    program = Program()
    at = HeadRows.of(program, s, program.operand("x", per_item=s.L * s.H * _FLOAT), program.kept)
    grad = Matrix(program.operand("grad", per_item=s.L * s.V * _FLOAT), s.L, s.V, s.V)
    grad_x, sums = program.operand("grad_x", per_item=s.L * s.H * _FLOAT), program.sums((s.V + 1) * s.H)
    add_head_backward(program, s, at, grad, grad_x, sums, sums.plus(s.V * s.H * _FLOAT))
    return program


def add_head_backward(
    program: Program,
    s: HeadSizes,
    at: HeadRows,
    grad: Matrix,
    grad_x: Place,
    weight: Place,
    norm_weight: Place,
) -> None:
    """Let items pass both backward next.

    Args:
        program: Where to.
        s: Sizes.
        at: What the forward pass has left.
        grad: Gradient of the logits, float32.
        grad_x: Where that of the inputs goes.
        weight: Sums of the weight's gradient, ``(V, H)``.
        norm_weight: Those of the norm's weight.
    """
    with program.passing():
        grad_normed = Matrix(program.room(s.L * s.H, _FLOAT), s.L, s.H, s.H)
        if s.half:
            narrow = program.room(s.L * grad.width, 2)
            program.narrow(grad.place, narrow, s.L * grad.width)
            grad = grad._replace(place=narrow)
        program.multiply(grad.T, at.normed, Matrix(weight, s.V, s.H, s.H), s.dtype, accumulate=True)
        program.multiply(grad, at.weight, grad_normed, s.dtype)
        x, of_norm, _, scale = at.norm
        program.add(norm.BACKWARD, [s.L, s.H, 1, grad_normed.place, x, of_norm, scale, grad_x, norm_weight])
