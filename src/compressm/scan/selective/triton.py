"""The selective recurrence on a CUDA device: chunks of time side by side, in Triton.

Time is cut into chunks of 32 steps. A first kernel finds what leaves each chunk if nothing enters it, a
second carries that from chunk to chunk, and a third computes outputs from what enters. Backward the same
three steps run against time; the third computes the states of a chunk anew from what entered it, which is all
that the forward pass keeps: ``4 N d`` bytes for 32 steps. Inside a chunk, time is a scan in registers, and
states follow one after the other, so N is padded to nothing: 12 states cost 12/16 of 16. Channels are padded
to blocks of 32, but padding is neither read nor written.

Bytes per step and channel, in float32. Forward: 8 read and N / 8 written by the first kernel, N / 4 by the
carry, 12 (with a gate 16) and N / 8 by the third. Backward: 8 (12) and N / 8, N / 4, then 24 (32) and
3 N / 8, beside the gradients of B and C, which each group of channel blocks writes for itself: at most N / 2.
An exponential per state and step is taken twice forward and three times backward; at 16 per clock and
multiprocessor these, not memory, bound the kernels from about N = 16 on. Sums over sequences, chunks and
groups are made by PyTorch in a fixed order: results repeat bit for bit.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from compressm.scan.selective import triton_kernels as kernels
from compressm.scan.selective.cpu import LOG2_E, Gradients

STEPS = 32
BLOCK = 32
CARRY_BLOCK = 128
PROGRAMS_PER_MULTIPROCESSOR = 32

# Eight elements of a tile to a thread, and four backward: with more, registers run out. That products and
# sums are rounded once is said because Triton's default is about to change.
_TILES: dict[str, Any] = {
    "STEPS": STEPS,
    "BLOCK": BLOCK,
    "STAGES": 3,
    "num_warps": 4,
    "enable_fp_fusion": True,
}
_GRADIENTS: dict[str, Any] = {**_TILES, "STAGES": 2, "num_warps": 8}
_CARRY: dict[str, Any] = {"BLOCK": CARRY_BLOCK, "STAGES": 4, "num_warps": 1, "enable_fp_fusion": True}


def programs_wanted(device: torch.device) -> int:
    """Programs that keep a device busy."""
    return PROGRAMS_PER_MULTIPROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count


def kept_sizes(u: Tensor, N: int, *, gated: bool, keep: bool) -> tuple[int, int]:
    """Elements that the backward pass starts from: none, and the states before each chunk."""
    del gated  # outputs before the gate are computed anew
    batch, L, d = u.shape
    return 0, batch * -(-L // STEPS) * N * d if keep else 0


class _Operands(NamedTuple):
    """Operands in the kernels' order of memory."""

    u: Tensor
    delta: Tensor
    bias: Tensor
    z: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    softplus: bool
    gated: bool

    @classmethod
    def of(
        cls, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        bias: Tensor | None, softplus: bool,
    ) -> "_Operands":  # fmt: skip
        none = u.new_zeros(u.shape[2])
        return cls(
            u=u.contiguous(),
            delta=delta.contiguous(),
            bias=none if bias is None else bias.contiguous(),
            z=u if z is None else z.contiguous(),
            A=(A * LOG2_E).mT.contiguous(),
            B=B.mT.contiguous(),
            C=C.mT.contiguous(),
            D=none if D is None else D.contiguous(),
            softplus=softplus,
            gated=z is not None,
        )

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """L, d, N, blocks of channels, chunks of time."""
        _, L, d = self.u.shape
        return L, d, self.A.shape[0], -(-d // BLOCK), -(-L // STEPS)

    def flags(self) -> dict[str, Any]:
        return {"SOFTPLUS": self.softplus, "GATED": self.gated}


def scan_forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, state: Tensor | None, *, softplus: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Outputs, final state, nothing, and with ``keep`` the states that :func:`scan_backward` starts from."""
    given = _Operands.of(u, delta, A, B, C, D, z, bias, softplus)
    (batch, *_), (*_, blocks, chunks) = u.shape, given.sizes
    with torch.cuda.device(u.get_device()):
        entering, final = _entering(given, given.u, given.B, state, adjoint=False)
        y = torch.empty_like(given.u)
        kernels.outputs[blocks * chunks, batch](
            given.u, given.delta, given.bias, given.z, given.A, given.B, given.C, given.D, entering, y,
            *given.sizes, **given.flags(), **_TILES,
        )  # fmt: skip
    return y, final, u.new_empty(0), entering.flatten() if keep else u.new_empty(0)


def scan_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, plain: Tensor, before: Tensor, *, softplus: bool,
) -> Gradients:  # fmt: skip
    """Gradients of u, delta, A, B, C, D, z (empty without a gate), bias and the initial state."""
    del plain  # empty: outputs before the gate are computed anew
    given = _Operands.of(u, delta, A, B, C, D, z, bias, softplus)
    batch, (L, d, N, blocks, chunks) = u.shape[0], given.sizes
    grad_y = torch.zeros_like(given.u) if grad_y is None else grad_y.contiguous()
    parts = _parts(u, batch * chunks, blocks)
    groups = -(-blocks // parts)
    grad_u, grad_delta, grad_z = (torch.empty_like(given.u) for _ in range(3))
    grad_A = u.new_empty(batch * chunks, N, d)
    grad_B, grad_C = u.new_empty(2, groups, batch, N, L)
    grad_D, grad_bias = u.new_empty(2, batch * chunks, d)
    with torch.cuda.device(u.get_device()):
        returning, grad_state = _entering(given, grad_y, given.C, grad_final, adjoint=True)
        kernels.gradients[chunks * groups, batch](
            given.u, given.delta, given.bias, given.z, given.A, given.B, given.C, given.D, grad_y,
            before, returning, grad_u, grad_delta, grad_z, grad_A, grad_B, grad_C, grad_D, grad_bias,
            L, d, N, chunks, parts, **given.flags(), **_GRADIENTS,
        )  # fmt: skip
    return (
        grad_u,
        grad_delta,
        grad_A.sum(0).mT.contiguous(),
        grad_B.sum(0).mT.contiguous(),
        grad_C.sum(0).mT.contiguous(),
        grad_D.sum(0),
        grad_z if given.gated else u.new_empty(0),
        grad_bias.sum(0),
        grad_state,
    )


def _entering(
    given: _Operands, x: Tensor, weights: Tensor, start: Tensor | None, *, adjoint: bool
) -> tuple[Tensor, Tensor]:
    """What enters each chunk, (batch, chunks, N, d), and what leaves the last, (batch, d, N)."""
    batch, (L, d, N, blocks, chunks) = x.shape[0], given.sizes
    ends, totals = x.new_empty(batch, chunks, N, d), x.new_empty(batch, chunks, d)
    kernels.chunk_ends[blocks * chunks, batch](
        x, given.delta, given.bias, given.z, given.A, weights, ends, totals, L, d, N, blocks, chunks,
        ADJOINT=adjoint, **given.flags(), **_TILES,
    )  # fmt: skip
    initial = x.new_zeros(batch, N, d) if start is None else start.mT.contiguous()
    final, wide = torch.empty_like(initial), -(-d // CARRY_BLOCK)
    kernels.carry[wide * N, batch](
        ends, totals, given.A, initial, final, d, N, wide, chunks, ADJOINT=adjoint, **_CARRY
    )
    return ends, final.mT.contiguous()


def _parts(u: Tensor, tiles: int, blocks: int) -> int:
    """Blocks of channels to a program: as many as leave programs enough, as each writes its own sums."""
    return max(1, min(blocks, blocks * tiles // programs_wanted(u.device)))
