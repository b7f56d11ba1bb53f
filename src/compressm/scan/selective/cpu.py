"""The selective recurrence on a CPU: operands brought into the kernels' order, and back.

What has a row for each step is float32 or bfloat16, and so are its gradients; everything else is float32.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from compressm.scan.runtime import run_kernel, stored
from compressm.scan.runtime.program import Place
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

FORWARD = stored("compressm.scan.selective.forward_kernel", "forward")
BACKWARD = stored("compressm.scan.selective.backward_kernel", "backward")
W = TypeVar("W", bound=int | Place)
LOG2_E = 1.4426950408889634
SMALL = 1 << 16  # states times steps: less is done before a second thread has started

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class LowRank(NamedTuple):
    """Time steps as a product that the kernels make: ``rows`` (batch, L, rank), ``weight`` (d, rank)."""

    rows: Tensor
    weight: Tensor


class Operands(NamedTuple):
    """What both kernels read, as it lies in memory for them; the forward pass may keep it for the backward.

    ``delta`` is empty where it is of low rank, and ``low`` and ``weight`` where it is not; ``z`` is empty
    without a gate.
    """

    u: Tensor
    delta: Tensor
    bias: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    low: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls, u: Tensor, delta: Tensor | LowRank, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
        z: Tensor | None, bias: Tensor | None,
    ) -> "Operands":  # fmt: skip
        """Operands as :func:`~compressm.scan.selective_scan` takes them, brought into the kernels' order."""
        none = A.new_zeros(u.shape[2]) if bias is None or D is None else A
        empty = u.new_empty(0, 0, 0)
        return cls(
            u=pad_channels(u),
            delta=empty if isinstance(delta, LowRank) else pad_channels(delta),
            bias=pad_channels(none if bias is None else bias),
            A=pack(A * LOG2_E),
            B=rows_of(B),
            C=rows_of(C),
            D=pad_channels(none if D is None else D),
            z=empty if z is None else pad_rows(z),
            low=rows_of(delta.rows) if isinstance(delta, LowRank) else empty,
            weight=pack(delta.weight) if isinstance(delta, LowRank) else empty,
        )

    @property
    def gated(self) -> bool:
        """Whether there is a gate."""
        return self.z.numel() > 0

    @property
    def sizes(self) -> list[int]:
        """Batch, L, N and blocks of channels."""
        return [*self.u.shape[:2], self.B.shape[2], self.A.shape[0]]

    @property
    def addresses(self) -> list[int]:
        """Those of the operands up to ``z``."""
        return [x.data_ptr() for x in self[:8]]

    @property
    def strides(self) -> list[int]:
        """Those of the operands that may be slices, from sequence to sequence and from step to step."""
        return [stride for x in (self.B, self.C, self.z) for stride in x.stride()[:2]]

    @property
    def low_rank_words(self) -> list[int]:
        """Rank of delta, ``low`` and its strides, ``weight``."""
        (per_sequence, stride, _), low = self.low.stride(), self.low
        return [low.shape[2], low.data_ptr(), per_sequence, stride, self.weight.data_ptr()]


def kept_sizes(u: Tensor, N: int, *, gated: bool, keep: bool) -> tuple[int, int]:
    """Elements that the backward pass starts from: outputs before the gate, states before each chunk.

    Flat: an axis that happens to be 1, as chunks are of a short sequence, would make graphs of their own.
    """
    batch, L, d = u.shape
    channels = blocks_of(d) * LANES
    plain = batch * L * channels if gated and keep else 0
    return plain, batch * chunks_of(L) * N * channels if keep else 0


def scan_forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, state: Tensor | None, *, softplus: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Outputs, final state, and with ``keep`` what the backward pass starts from."""
    d = u.shape[2]
    given = Operands.of(u, delta, A, B, C, D, z, bias)
    y, carry, plain, before = run_forward(given, carry_of(state, given), softplus=softplus, keep=keep)
    return y[..., :d].contiguous(), unpack(carry, d), plain, before


def run_forward(
    given: Operands, carry: Tensor, *, softplus: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`scan_forward`, all in the kernel's order; ``carry``, the initial state, becomes the final."""
    gated, N = given.gated, given.B.shape[2]
    y, kept = torch.empty_like(given.u), kept_sizes(given.u, N, gated=gated, keep=keep)
    plain, before = given.u.new_empty(kept[0]), given.A.new_empty(kept[1])
    made = [x.data_ptr() for x in (y, plain, carry, before)]
    words = forward_words(
        given.sizes, given.addresses, made, given.strides, given.low_rank_words,
        softplus=softplus, gated=gated, keep=keep,
    )  # fmt: skip
    batch, blocks = given.u.shape[0], given.A.shape[0]
    run_kernel(FORWARD[y.dtype], words, _workers(given, batch * blocks))
    return y, carry, plain, before


def forward_words(
    sizes: Sequence[W], operands: Sequence[W], made: Sequence[W], strides: Sequence[W], low: Sequence[W],
    *, softplus: bool, gated: bool, keep: bool,
) -> list[W | int]:  # fmt: skip
    """Of the forward kernel: as in :class:`Operands`, with y, plain, carry and before as what is ``made``."""
    return [*sizes, int(softplus), int(gated), int(keep), *operands, *made, *strides, *low]


def backward_words(
    sizes: Sequence[W], operands: Sequence[W], others: Sequence[W], strides: Sequence[W], low: Sequence[W],
    *, softplus: bool, gated: bool, groups: int,
) -> list[W | int]:  # fmt: skip
    """Of the backward kernel: ``others`` are plain, before and the gradient of y, then an :class:`Adjoint`.

    ``strides`` end with those of the gradient of z.
    """
    return [*sizes, int(softplus), int(gated), groups, *operands, *others, *strides, *low]


def scan_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, plain: Tensor, before: Tensor, *, softplus: bool,
) -> Gradients:  # fmt: skip
    """Gradients of u, delta, A, B, C, D, z (empty without a gate), bias and the initial state."""
    (_, L, d), N = u.shape, A.shape[1]
    given = Operands.of(u, delta, A, B, C, D, z, bias)
    made = run_adjoint(given, grad_y, carry_of(grad_final, given), plain, before, softplus=softplus)
    rows, channels = made.sum_rows(L), made.sum_channels(d)
    return (
        made.u[..., :d].contiguous(),
        made.delta[..., :d].contiguous(),
        channels[:, :N].contiguous(),
        rows[..., :N].clone(memory_format=torch.contiguous_format),
        rows[..., N:].clone(memory_format=torch.contiguous_format),
        channels[:, N].clone(),
        u.new_empty(0) if z is None else made.z[..., :d].contiguous(),
        channels[:, N + 1].clone(),
        unpack(made.carry, d),
    )


class Adjoint(NamedTuple):
    """What the backward kernel makes, in its own order: channels padded to whole vectors, parts not summed.

    Gradients of u, delta (empty where it is of low rank) and z ``(batch, L, channels)``, of their type, and
    in float32: ``rows``, of ``low``, B and C, ``(groups, batch, rank + 2N, whole chunks of steps)``;
    ``channels``, of A, ``weight``, D and bias, ``(batch, blocks, N + rank + 2, LANES)``; ``carry``, that of
    the initial state, ``(batch, blocks, N, LANES)``.
    """

    u: Tensor
    delta: Tensor
    z: Tensor
    rows: Tensor
    channels: Tensor
    carry: Tensor

    def sum_rows(self, L: int) -> Tensor:
        """Gradients of ``low``, B and C side by side, ``(batch, L, rank + 2N)``; a view."""
        return (self.rows[0] if len(self.rows) == 1 else self.rows.sum(0))[..., :L].mT

    def sum_channels(self, d: int) -> Tensor:
        """Gradients of A, ``weight``, D and bias side by side, ``(d, N + rank + 2)``."""
        return unpack(self.channels.sum(0), d)


def run_adjoint(
    given: Operands, grad_y: Tensor | None, carry: Tensor, plain: Tensor, before: Tensor, *, softplus: bool,
    grad_z: Tensor | None = None,
) -> Adjoint:  # fmt: skip
    """As :func:`scan_backward`, in the kernel's order.

    ``carry``, the gradient of the final state, becomes that of the initial one.
    ``grad_z``, where given, is where the gradient of z goes: rows of whole vectors of channels, which may be
    parts of longer ones.
    """
    batch, L, N, blocks = given.sizes
    groups, rank = groups_of(batch, given.u.shape[2]), given.low.shape[2]
    grad_y = torch.zeros_like(given.u) if grad_y is None else pad_channels(grad_y)
    if grad_z is None:
        grad_z = torch.empty_like(given.u if given.gated else given.z)
    made = Adjoint(
        u=torch.empty_like(given.u),
        delta=torch.empty_like(given.delta),
        z=grad_z,
        rows=carry.new_zeros(groups, batch, rank + 2 * N, chunks_of(L) * STEPS),
        channels=carry.new_zeros(batch, blocks, N + rank + 2, LANES),
        carry=carry,
    )
    words = backward_words(
        given.sizes, given.addresses, [x.data_ptr() for x in (plain, before, grad_y, *made)],
        [*given.strides, *grad_z.stride()[:2]], given.low_rank_words,
        softplus=softplus, gated=given.gated, groups=groups,
    )  # fmt: skip
    run_kernel(BACKWARD[given.u.dtype], words, _workers(given, batch * groups))
    return made


def carry_of(state: Tensor | None, given: Operands) -> Tensor:
    """A packed copy of a state, which the kernels carry through time in place."""
    return given.A.new_zeros(given.u.shape[0], *given.A.shape) if state is None else pack(state)


def _workers(given: Operands, items: int) -> int:
    return 1 if given.u.numel() * given.B.shape[2] < SMALL else min(torch.get_num_threads(), items)
