"""A norm and the linear map behind it, as a language model ends: on a CPU sequence by sequence."""

from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.layers import rms_norm as norm
from compressm.models.rms_norm import RMSNorm
from compressm.scan.precision import at_least_float32
from compressm.scan.runtime import workers_share
from compressm.scan.runtime.program import Matrix, Program, can_multiply
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
    dtype = _dtype_of_products()
    if dtype is None or not _served(x, norm_of, weight, dtype):
        made = F.linear(norm_of(x), weight)
        return at_least_float32(made) if torch.is_autocast_enabled(x.device.type) else made
    operands = (x, norm_of.weight, weight, norm.number(cast(float, norm_of.eps)), dtype)
    logits: Tensor = _Head.apply(*operands)  # type: ignore[no-untyped-call]
    return logits


def _dtype_of_products() -> torch.dtype | None:
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    half = torch.get_autocast_dtype("cpu")
    return half if half == torch.bfloat16 else None


def _served(x: Tensor, norm_of: RMSNorm, weight: Tensor, dtype: torch.dtype) -> bool:
    return (
        not observed()
        and bare(norm_of, RMSNorm)
        and plain(x, weight, norm_of.weight)
        and x.ndim == 3
        and x.numel() > 0
        and weight.shape[1] == x.shape[2]
        and weight.numel() <= _LARGEST
        and workers_share(x.shape[0])
        and can_multiply(dtype)
    )


class _Sizes(NamedTuple):
    L: int
    H: int
    V: int
    dtype: torch.dtype


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm_weight: Tensor, weight: Tensor, eps: Tensor, dtype: torch.dtype
    ) -> Tensor:
        x, (batch, L, H), V = x.contiguous(), x.shape, len(weight)
        sizes, norm_weight = _Sizes(L, H, V, dtype), norm_weight.contiguous()
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
        total = _backward_program(s).run(given | made, len(x), workers)[: (s.V + 1) * s.H].view(s.V + 1, s.H)
        return made["grad_x"], total[s.V], total[: s.V], None, None


class _Operands(NamedTuple):
    """What both programs read, the norm's results among them."""

    norm: list[Any]  # x, weight of the norm, eps and what it divides by
    normed: Matrix
    weight: Matrix

    @classmethod
    def of(cls, program: Program, s: _Sizes) -> "_Operands":
        number = 2 if s.dtype == torch.bfloat16 else _FLOAT
        return cls(
            [
                program.operand("x", per_item=s.L * s.H * _FLOAT), program.operand("norm_weight"),
                program.operand("eps"), program.kept(s.L, _FLOAT),
            ],
            Matrix(program.kept(s.L * s.H, number), s.L, s.H, s.H),
            Matrix(program.operand("weight"), s.V, s.H, s.H),
        )  # fmt: skip


@lru_cache(maxsize=64)
def _forward_program(s: _Sizes) -> Program:
    program = Program()
    at = _Operands.of(program, s)
    logits = Matrix(program.operand("logits", per_item=s.L * s.V * _FLOAT), s.L, s.V, s.V)
    x, weight, eps, scale = at.norm
    half = s.dtype == torch.bfloat16
    normed = program.room(s.L * s.H, _FLOAT) if half else at.normed.place
    program.add(norm.FORWARD, [s.L, s.H, x, weight, eps, normed, scale])
    if half:
        program.narrow(normed, at.normed.place, s.L * s.H)
    program.multiply(at.normed, at.weight.T, logits, s.dtype)
    return program


@lru_cache(maxsize=64)
def _backward_program(s: _Sizes) -> Program:
    program = Program()
    at = _Operands.of(program, s)
    given = program.operand("grad", per_item=s.L * s.V * _FLOAT)
    grad_x = program.operand("grad_x", per_item=s.L * s.H * _FLOAT)
    sums = program.sums((s.V + 1) * s.H)
    grad_normed = Matrix(program.room(s.L * s.H, _FLOAT), s.L, s.H, s.H)
    half = s.dtype == torch.bfloat16
    grad = Matrix(program.room(s.L * s.V, 2) if half else given, s.L, s.V, s.V)
    if half:
        program.narrow(given, grad.place, s.L * s.V)
    program.multiply(grad.T, at.normed, Matrix(sums, s.V, s.H, s.H), s.dtype, accumulate=True)
    program.multiply(grad, at.weight, grad_normed, s.dtype)
    x, weight, _, scale = at.norm
    program.add(
        norm.BACKWARD,
        [s.L, s.H, 1, grad_normed.place, x, weight, scale, grad_x, sums.plus(s.V * s.H * _FLOAT)],
    )
    return program
