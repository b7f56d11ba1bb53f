"""The selective recurrence on a CUDA device, in Triton.

A lane of a warp is a channel and goes through time with all steps of a tile in its registers, one state n
after the other: of a state and a step, forward, that is four arithmetic instructions and an exponential, and
nothing is exchanged between threads. Where sequences and channels make too few warps to keep the device busy,
time is cut into segments: a first kernel finds what leaves each segment if nothing enters it, a second
carries that from segment to segment, and a third computes outputs from what enters. Backward the same three
steps run against time. States are computed anew from those before every 32nd step, which is all that the
forward pass keeps: ``N / 8`` bytes for a step and channel. N is padded to an even number, channels to blocks
of 32; padding is computed, but neither read nor written.

Bytes per step and channel, in float32 (inputs, outputs and their gradients take half in bfloat16). Forward:
12 (with a gate 16) and ``N / 8``; where time is cut, 8 more. Backward: 24 (32) and ``N / 8`` for states and
``N / 4`` for the gradients of B and C, which blocks of channels have for themselves; where time is cut, 8
(12) more. Exponentials per state and step: one forward and two backward, and one more each where time is cut;
a multiprocessor makes 16 a clock, so these, not memory, bound the kernels from about N = 16 on. Sums over
sequences, segments and blocks are made by PyTorch in a fixed order: results repeat bit for bit.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from compressm.scan.runtime.card import multiprocessors
from compressm.scan.runtime.rows import by_rows
from compressm.scan.selective import triton_gradients, triton_kernels
from compressm.scan.selective.cpu import LOG2_E, Gradients

PERIOD = 32  # steps from one kept state to the next
PROGRAMS_PER_MULTIPROCESSOR = 12

# A thread holds 16 elements of a tile. That products and sums are rounded once is said because Triton's
# default is about to change.
_LAUNCH: dict[str, Any] = {"num_warps": 1, "enable_fp_fusion": True}
_TILES: dict[str, Any] = {"STEPS": 16, "BLOCK": 32, **_LAUNCH}
_GRADIENTS: dict[str, Any] = {**_TILES}
_CARRY: dict[str, Any] = {"BLOCK": 128, "STAGES": 4, **_LAUNCH}


def programs_wanted(device: torch.device) -> int:
    """Programs that keep a device busy: three warps for each of a multiprocessor's four schedulers."""
    return PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(device)


def kept_sizes(u: Tensor, N: int, *, gated: bool, keep: bool) -> tuple[int, int]:
    """Elements that the backward pass starts from: none, and the states before each period."""
    del gated  # outputs before the gate are computed anew
    batch, L, d = u.shape
    return 0, batch * -(-L // PERIOD) * _even(N) * d if keep else 0


class _Operands(NamedTuple):
    """Operands in the kernels' order of memory; u, delta and z may have longer rows, and be bfloat16."""

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
        none, u = A.new_zeros(u.shape[2]), by_rows(u)
        return cls(
            u=u,
            delta=by_rows(delta),
            bias=none if bias is None else bias.contiguous(),
            z=u if z is None else by_rows(z),
            A=_states_first(A * LOG2_E),
            B=_packed(B.to(A.dtype)),
            C=_packed(C.to(A.dtype)),
            D=none if D is None else D.contiguous(),
            softplus=softplus,
            gated=z is not None,
        )

    @property
    def states(self) -> int:
        """N as the kernels have it: even."""
        return self.A.shape[0]

    def constants(self, launch: dict[str, Any]) -> dict[str, Any]:
        """What kernels are compiled for: sizes that do not change with a cut, and which parts there are."""
        _, L, d = self.u.shape
        sizes = {"d": d, "DELTA_ROW": self.delta.stride(1), "Z_ROW": self.z.stride(1), "PERIOD": PERIOD}
        flags = {"SOFTPLUS": self.softplus, "GATED": self.gated, "EVEN": L % launch["STEPS"] == 0}
        return {**sizes, **flags, **launch}


class Cut(NamedTuple):
    """Segments of ``length`` steps, and the programs for one: a block of channels of a sequence to each."""

    programs: int
    segments: int
    length: int

    @classmethod
    def forward(cls, u: Tensor) -> "Cut":
        """Cutting time nearly doubles the work, which one warp in flight for most schedulers is worth."""
        wanted = programs_wanted(u.device)
        return cls._of(u, -(-u.shape[2] // _TILES["BLOCK"]), enough=wanted // 4, wanted=wanted)

    @classmethod
    def backward(cls, u: Tensor, groups: int) -> "Cut":
        """Cutting time adds a fifth to the work. ``groups`` of blocks of channels have a program each."""
        wanted = programs_wanted(u.device)
        return cls._of(u, groups, enough=wanted, wanted=wanted)

    @classmethod
    def _of(cls, u: Tensor, groups: int, *, enough: int, wanted: int) -> "Cut":
        """One segment if that makes ``enough`` programs, else segments for ``wanted``, if there is time."""
        batch, L, _ = u.shape
        programs, periods = batch * groups, -(-L // PERIOD)
        segments = 1 if programs >= enough else min(periods, -(-wanted // programs))
        length = -(-periods // segments)
        return cls(programs, -(-periods // length), length * PERIOD)


def scan_forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, state: Tensor | None, *, softplus: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Outputs, final state, nothing, and with ``keep`` the states that :func:`scan_backward` starts from."""
    given = _Operands.of(u, delta, A, B, C, D, z, bias, softplus)
    cut = Cut.forward(u)
    _, kept = kept_sizes(u, A.shape[1], gated=False, keep=keep)
    before, y = A.new_empty(kept), u.new_empty(u.shape)
    with torch.cuda.device(u.get_device()):
        entering = _entering(given, given.u, given.B, state, cut, adjoint=False)
        triton_kernels.outputs[cut.programs, cut.segments](
            given.u, given.delta, given.bias, given.z, given.A, given.B, given.C, given.D, entering, before,
            y, u.shape[1], given.states, cut.length,
            U_ROW=given.u.stride(1), KEEP=keep, **given.constants(_TILES),
        )  # fmt: skip
    return y, _channels_first(entering[:, -1], A), A.new_empty(0), before


def scan_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, plain: Tensor, before: Tensor, *, softplus: bool,
) -> Gradients:  # fmt: skip
    """Gradients of u, delta, A, B, C, D, z (empty without a gate), bias and the initial state."""
    del plain  # empty: outputs before the gate are computed anew
    given = _Operands.of(u, delta, A, B, C, D, z, bias, softplus)
    (batch, L, d), N, block = u.shape, given.states, _GRADIENTS["BLOCK"]
    parts, groups = parts_and_groups(d, N)
    cut = Cut.backward(u, groups)
    grad_y = u.new_zeros(u.shape) if grad_y is None else grad_y.contiguous()
    grad_u, grad_delta, grad_z = (x.new_empty(u.shape) for x in (given.u, given.delta, given.z))
    between = A.new_empty(cut.programs, cut.segments, PERIOD // _GRADIENTS["STEPS"] - 1, N, block)
    grad_A = A.new_empty(batch, cut.segments, N, d)
    sums, total = A.new_empty(2, groups, *given.B.shape), A.new_zeros(2, *given.B.shape)
    grad_D, grad_bias = A.new_empty(2, batch, cut.segments, d)
    with torch.cuda.device(u.get_device()):
        returning = _entering(given, grad_y, given.C, grad_final, cut, adjoint=True)
        by_channel = (
            given.u, given.delta, given.bias, given.z, given.A, given.D, grad_y,
            before.view(batch, -1, N, d), returning, grad_u, grad_delta, grad_z, grad_A, grad_D, grad_bias,
        )  # fmt: skip
        for first in range(0, parts * groups * block, groups * block):
            triton_gradients.gradients[cut.programs, cut.segments](
                *(x[..., first:] for x in by_channel), given.B, given.C, between, sums,
                L, N, cut.length, sums[0].numel(), d - first,
                groups=groups, U_ROW=given.u.stride(1), **given.constants(_GRADIENTS),
            )  # fmt: skip
            total += sums.sum(1)
    grad_B, grad_C = (_unpacked(share, B) for share in total)
    return (
        grad_u,
        grad_delta,
        _channels_first(grad_A.sum((0, 1)), A),
        grad_B,
        grad_C,
        grad_D.sum((0, 1)),
        grad_z if given.gated else u.new_empty(0),
        grad_bias.sum((0, 1)),
        _channels_first(returning[:, 0], A),
    )


def parts_and_groups(d: int, N: int) -> tuple[int, int]:
    """In how many parts the backward kernel serves blocks of channels, and how many of them in each.

    Each block has shares of the gradients of B and C, which take at most twice the memory of float32 inputs:
    more blocks than that come one part after the other.
    """
    blocks = -(-d // _GRADIENTS["BLOCK"])
    parts = -(-blocks // max(1, d // N))
    return parts, -(-blocks // parts)


def _entering(
    given: _Operands, x: Tensor, weights: Tensor, start: Tensor | None, cut: Cut, *, adjoint: bool
) -> Tensor:
    """What enters each segment, (batch, segments, N, d)."""
    (batch, L, d), N = x.shape, given.states
    initial = given.A.new_zeros(batch, N, d) if start is None else _states_first(start)
    if cut.segments == 1:
        return initial.unsqueeze(1)
    cut = Cut(batch * -(-d // _TILES["BLOCK"]), cut.segments, cut.length)
    ends, totals = (given.A.new_empty(batch, cut.segments, *size) for size in ((N, d), (d,)))
    triton_kernels.segment_ends[cut.programs, cut.segments - 1](
        x, given.delta, given.bias, given.z, given.A, weights, ends, totals, L, N, cut.length,
        X_ROW=x.stride(1), ADJOINT=adjoint, **given.constants(_TILES),
    )  # fmt: skip
    triton_kernels.carry[batch * -(-d // _CARRY["BLOCK"]), N](
        ends, totals, given.A, initial, N, cut.segments, d=d, ADJOINT=adjoint, **_CARRY
    )
    return ends


def _even(N: int) -> int:
    return N + N % 2


def _states_first(x: Tensor) -> Tensor:
    """(..., d, N) as new memory of (..., N, d), with a state of zeros behind an odd number."""
    return pad(x, (0, x.shape[-1] % 2)).mT.clone(memory_format=torch.contiguous_format)


def _channels_first(x: Tensor, A: Tensor) -> Tensor:
    """(..., N, d) as new memory of (..., d, N), without what was padded."""
    return x.mT[..., : A.shape[1]].clone(memory_format=torch.contiguous_format)


def _packed(x: Tensor) -> Tensor:
    """(batch, L, N) as (batch, periods, N, PERIOD), with zeros behind the last step and an odd N."""
    batch, L, N = x.shape
    filled = pad(x, (0, N % 2, 0, -L % PERIOD))
    return filled.view(batch, -1, PERIOD, _even(N)).mT.contiguous()


def _unpacked(x: Tensor, like: Tensor) -> Tensor:
    """What :func:`_packed` made, in the size and type of ``like``."""
    batch, L, N = like.shape
    return x.mT.reshape(batch, -1, x.shape[2])[:, :L, :N].to(like.dtype).contiguous()
