"""The selective recurrence on a CPU: operands brought into the kernels' order, and back.

What has a row for each step is float32 or bfloat16, and so are its gradients; everything else is float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from compressm.scan.runtime import run_kernel, stored
from compressm.scan.runtime.widths import LANES
from compressm.scan.selective.layout import (
    STEPS,
    blocks_of,
    chunks_of,
    groups_of,
    pack,
    pad_channels,
    pad_rows,
    rows_of,
    unpack,
)

_FORWARD = stored("compressm.scan.selective.forward_kernel", "forward")
_BACKWARD = stored("compressm.scan.selective.backward_kernel", "backward")
LOG2_E = 1.4426950408889634
SMALL = 1 << 16  # states times steps: less is done before a second thread has started

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class LowRank(NamedTuple):
    """Time steps as a product that the kernels make: ``rows`` (batch, L, rank), ``weight`` (d, rank)."""

    rows: Tensor
    weight: Tensor


class _Operands(NamedTuple):
    """What both kernels read, in their order of words."""

    u: Tensor
    delta: Tensor
    bias: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor

    @classmethod
    def of(
        cls, u: Tensor, delta: Tensor | LowRank, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
        z: Tensor | None, bias: Tensor | None,
    ) -> "_Operands":  # fmt: skip
        none = A.new_zeros(u.shape[2])
        return cls(
            u=pad_channels(u),
            delta=u.new_empty(0) if isinstance(delta, LowRank) else pad_channels(delta),
            bias=pad_channels(none if bias is None else bias),
            A=pack(A * LOG2_E),
            B=rows_of(B),
            C=rows_of(C),
            D=pad_channels(none if D is None else D),
            z=u.new_empty(0, 0, 0) if z is None else pad_rows(z),
        )

    @property
    def strides(self) -> list[int]:
        """Those of the operands that may be slices, from sequence to sequence and from step to step."""
        return [stride for x in (self.B, self.C, self.z) for stride in x.stride()[:2]]


def kept_sizes(u: Tensor, N: int, *, gated: bool, keep: bool) -> tuple[int, int]:
    """Elements that the backward pass starts from: outputs before the gate, states before each chunk.

    Flat: an axis that happens to be 1, as chunks are of a short sequence, would make graphs of their own.
    """
    batch, L, d = u.shape
    channels = blocks_of(d) * LANES
    plain = batch * L * channels if gated and keep else 0
    return plain, batch * chunks_of(L) * N * channels if keep else 0


def scan_forward(
    u: Tensor, delta: Tensor | LowRank, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, state: Tensor | None, *, softplus: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Outputs, final state, and with ``keep`` what the backward pass starts from."""
    (batch, L, d), N, gated = u.shape, A.shape[1], z is not None
    given = _Operands.of(u, delta, A, B, C, D, z, bias)
    y, carry = torch.empty_like(given.u), _carry(state, batch, d, N, A)
    kept = kept_sizes(u, N, gated=gated, keep=keep)
    plain, before = u.new_empty(kept[0]), A.new_empty(kept[1])
    sizes = [batch, L, N, blocks_of(d), int(softplus), int(gated), int(keep)]
    tensors = (*given, y, plain, carry, before)
    low = _packed(delta)
    words = [*sizes, *(x.data_ptr() for x in tensors), *given.strides, *_low_rank_words(low)]
    run_kernel(_FORWARD[u.dtype], words, _workers(u, N, batch * blocks_of(d)))
    return y[..., :d].contiguous(), unpack(carry, d), plain, before


class Adjoint(NamedTuple):
    """What the backward kernel makes, in its own order: channels padded to whole vectors, parts not summed.

    Gradients of u, delta and z ``(batch, L, channels)``, of their type. In float32 those of A ``(batch,
    blocks, N, LANES)``; of B and C ``(groups, batch, N, whole chunks of steps)``; of D and bias ``(batch,
    channels)``; ``carry``, that of the initial state, ``(batch, blocks, N, LANES)``.
    """

    u: Tensor
    delta: Tensor
    z: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    bias: Tensor
    carry: Tensor


def scan_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, plain: Tensor, before: Tensor, *, softplus: bool,
) -> Gradients:  # fmt: skip
    """Gradients of u, delta, A, B, C, D, z (empty without a gate), bias and the initial state."""
    L, d = u.shape[1:]
    made, _ = scan_adjoint(
        grad_y, grad_final, u, delta, A, B, C, D, z, bias, plain, before, softplus=softplus
    )
    return (
        made.u[..., :d].contiguous(),
        made.delta[..., :d].contiguous(),
        unpack(made.A.sum(0), d),
        sum_groups(made.B, L).clone(memory_format=torch.contiguous_format),
        sum_groups(made.C, L).clone(memory_format=torch.contiguous_format),
        made.D.sum(0)[:d].clone(),
        u.new_empty(0) if z is None else made.z[..., :d].contiguous(),
        made.bias.sum(0)[:d].clone(),
        unpack(made.carry, d),
    )


def scan_adjoint(
    grad_y: Tensor | None, grad_final: Tensor | None,
    u: Tensor, delta: Tensor | LowRank, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, plain: Tensor, before: Tensor, *, softplus: bool, grad_z: Tensor | None = None,
) -> tuple[Adjoint, LowRank]:  # fmt: skip
    """As :func:`scan_backward`, in the kernel's order; that of delta is empty where it is of low rank.

    Second are the gradients of its parts, (groups, batch, rank, whole chunks of steps) and (batch, blocks,
    rank, LANES).

    ``grad_z``, where given, is where the gradient of z goes: rows of whole vectors of channels, which may be
    parts of longer ones.
    """
    (batch, L, d), N, groups = u.shape, A.shape[1], groups_of(u.shape[0], u.shape[2])
    given = _Operands.of(u, delta, A, B, C, D, z, bias)
    grad_y = torch.zeros_like(given.u) if grad_y is None else pad_channels(grad_y)
    if grad_z is None:
        grad_z = u.new_empty((0, 0, 0) if z is None else given.u.shape)
    carry = _carry(grad_final, batch, d, N, A)
    grad_B, grad_C = A.new_zeros(2, groups, batch, N, chunks_of(L) * STEPS)
    grad_D, grad_bias = A.new_zeros(2, batch, given.D.shape[0])
    made = Adjoint(
        u=torch.empty_like(given.u),
        delta=torch.empty_like(given.delta),
        z=grad_z,
        A=torch.zeros_like(carry),
        B=grad_B,
        C=grad_C,
        D=grad_D,
        bias=grad_bias,
        carry=carry,
    )
    sizes = [batch, L, N, blocks_of(d), int(softplus), int(z is not None), groups]
    tensors = (*given, plain, before, grad_y, *made)
    low = _packed(delta)
    rank = 0 if low is None else low.rows.shape[2]
    grad_low = LowRank(
        A.new_zeros(groups, batch, rank, chunks_of(L) * STEPS), A.new_zeros(*carry.shape[:2], rank, LANES)
    )
    words = [*sizes, *(x.data_ptr() for x in tensors), *given.strides, *grad_z.stride()[:2]]
    words += [*_low_rank_words(low), *(x.data_ptr() for x in grad_low)]
    run_kernel(_BACKWARD[u.dtype], words, _workers(u, N, batch * groups))
    return made, grad_low


def _packed(delta: Tensor | LowRank) -> LowRank | None:
    """Parts of a delta of low rank, in the kernels' order."""
    return LowRank(rows_of(delta.rows), pack(delta.weight)) if isinstance(delta, LowRank) else None


def _low_rank_words(low: LowRank | None) -> list[int]:
    if low is None:
        return [0] * 5
    rank, (per_sequence, stride, _) = low.rows.shape[2], low.rows.stride()
    return [rank, low.rows.data_ptr(), per_sequence, stride, low.weight.data_ptr()]


def sum_groups(parts: Tensor, L: int) -> Tensor:
    """A gradient (batch, L, N) of B or C, from (groups, batch, N, whole chunks of steps); a view."""
    return (parts[0] if len(parts) == 1 else parts.sum(0))[..., :L].mT


def _carry(state: Tensor | None, batch: int, d: int, N: int, like: Tensor) -> Tensor:
    """A packed copy of a state, which the kernels carry through time in place."""
    return like.new_zeros(batch, blocks_of(d), N, LANES) if state is None else pack(state)


def _workers(u: Tensor, N: int, items: int) -> int:
    return 1 if u.numel() * N < SMALL else min(torch.get_num_threads(), items)
