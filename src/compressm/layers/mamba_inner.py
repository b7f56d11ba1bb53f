"""Mamba's inner part on a CPU: convolution, projections and recurrence as one node of autograd.

For batches that cores do not share, or channels that fill no whole vectors; for others
:mod:`compressm.layers.mamba_sequences` does more.

The kernels are those of ``short_convolution`` and ``selective_scan``. As one node, gradients of the slices of
a projection are written where they belong in the gradient of the whole, instead of being joined afterwards,
and a small layer does not spend more time between its operators than in them.

In half precision, under autocast or with parameters in bfloat16, what has a row for each step is bfloat16,
as products make and take it, while convolution and recurrence compute in float32 and carry their state in it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from compressm.layers.mamba_sizes import LOW_RANK
from compressm.scan.runtime import STORED
from compressm.scan.runtime.tracing import observed, plain
from compressm.scan.runtime.widths import LANES
from compressm.scan.selective.cpu import LowRank, Operands, carry_of, run_adjoint, run_forward
from compressm.scan.selective.layout import unpack
from compressm.scan.short_convolution.cpu import convolve, convolve_backward


class InnerOperands(NamedTuple):
    """What :func:`mamba_inner` reads.

    Args:
        xz: Channels ``x`` and gates ``z``, ``(batch, L, 2d)``.
        filters: Weights of the convolution, ``(d, 1, K)``.
        filter_bias: ``(d,)``.
        select: ``(dt_rank + 2N, d)``, rows of ``Δ``, ``B`` and ``C``.
        dt_weight: ``(d, dt_rank)``.
        dt_bias: ``(d,)``.
        A_log: ``(d, N)``.
        D: ``(d,)``.
        window: Last inputs of the convolution before the first, ``(batch, d, K - 1)``; zero if None.
        state: ``(batch, d, N)``; zero if None.
    """

    xz: Tensor
    filters: Tensor
    filter_bias: Tensor | None
    select: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    window: Tensor | None
    state: Tensor | None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Channels ``d``, rank of ``Δ``, states ``N``."""
        return self.A_log.shape[0], self.dt_weight.shape[-1], self.A_log.shape[-1]

    @property
    def served(self) -> bool:
        """Whether :func:`mamba_inner` serves them; if not, its parts by themselves do, or say why not.

        Where operators are watched the parts are wanted. A single step is left to them too: a stream has no
        passes over memory to save.
        """
        half = self.xz.dtype == torch.bfloat16
        if observed() or not plain(*self, dtypes=tuple(STORED) if half else (torch.float32,)):
            return False
        if not half and torch.is_autocast_enabled("cpu"):
            return False  # autocast wants the inputs rounded, too
        (d, rank, N), batch, K = self.sizes, self.xz.shape[0], self.filters.shape[-1]
        return (
            self.xz.shape[1] > 1
            and self.xz.numel() > 0
            and self.xz.is_contiguous()
            and self.xz.shape[2] == 2 * d
            and self.filters.shape == (d, 1, K)
            and self.select.shape == (rank + 2 * N, d)
            and self.dt_weight.shape == (d, rank)
            and self.A_log.shape == (d, N)
            and self.D.shape == self.dt_bias.shape == (d,)
            and (self.filter_bias is None or self.filter_bias.shape == (d,))
            and (self.window is None or self.window.shape == (batch, d, K - 1))
            and (self.state is None or self.state.shape == (batch, d, N))
        )


def mamba_inner(given: InnerOperands) -> tuple[Tensor, Tensor, Tensor]:
    """From what ``in_proj`` makes to what ``out_proj`` takes. Differentiable once by every operand.

    Shapes are not looked at: see :attr:`InnerOperands.served`.

    Returns:
        Outputs ``(batch, L, d)``, through the gate; the window and the state after the last step.
    """
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given):
        results: tuple[Tensor, Tensor, Tensor] = _Inner.apply(*given)  # type: ignore[no-untyped-call]
        return results
    return _run(given, keep=False)[0]


class _Inner(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Any) -> tuple[Tensor, Tensor, Tensor]:
        given = InnerOperands(*operands)
        results, kept, recurrence = _run(given, keep=True)
        ctx.save_for_backward(*given, *kept, *recurrence)
        # A loss that ignores the final state must not pay for its gradient.
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        first, second = len(InnerOperands._fields), len(InnerOperands._fields) + len(_Kept._fields)
        if all(grad is None for grad in grads):
            return (None,) * first
        saved = ctx.saved_tensors
        given, kept = InnerOperands(*saved[:first]), _Kept(*saved[first:second])
        return _pull(grads, given, kept, Operands(*saved[second:]))


class _Kept(NamedTuple):
    """What the backward pass starts from besides the operands, and those of the recurrence."""

    chosen: Tensor
    select: Tensor
    A: Tensor
    plain: Tensor
    before: Tensor


def _run(given: InnerOperands, *, keep: bool) -> tuple[tuple[Tensor, Tensor, Tensor], _Kept, Operands]:
    (d, rank, N), (batch, L, _) = given.sizes, given.xz.shape
    select = given.select.to(given.xz.dtype)
    x, window = convolve(given.xz[..., :d], given.filters, given.filter_bias, given.window, silu=True)
    rows = torch.mm(x.view(-1, d), select.t())
    chosen, A = rows.view(batch, L, -1), -torch.exp(given.A_log.float())
    delta: Tensor | LowRank
    if rank <= LOW_RANK:
        delta = LowRank(chosen[..., :rank], given.dt_weight.float())
    else:
        delta = torch.mm(rows[:, :rank], given.dt_weight.to(rows.dtype).t()).view(batch, L, d)
    recurrence = Operands.of(
        x, delta, A, chosen[..., rank : rank + N], chosen[..., rank + N :], given.D.float(),
        given.xz[..., d:], given.dt_bias.float(),
    )  # fmt: skip
    carry = carry_of(None if given.state is None else given.state.float(), recurrence)
    y, carry, plain, before = run_forward(recurrence, carry, softplus=True, keep=keep)
    results = (y[..., :d].contiguous(), window, unpack(carry, d))
    return results, _Kept(chosen, select, A, plain, before), recurrence


def _pull(
    grads: tuple[Tensor | None, ...], given: InnerOperands, kept: _Kept, recurrence: Operands
) -> tuple[Tensor | None, ...]:
    """Gradients of all operands, from those of outputs, window and state."""
    (d, rank, N), (batch, L, _) = given.sizes, given.xz.shape
    grad_y, grad_window, grad_state = grads
    grad_xz, grad_chosen = torch.empty_like(given.xz), torch.empty_like(kept.chosen)
    grad_z, whole = grad_xz[..., d:], d % LANES == 0
    made = run_adjoint(
        recurrence, grad_y, carry_of(grad_state, recurrence), kept.plain, kept.before, softplus=True,
        grad_z=grad_z if whole else None,
    )  # fmt: skip
    if not whole:
        grad_z.copy_(made.z[..., :d])
    x, grad_rows = recurrence.u[..., :d].reshape(-1, d), grad_chosen.view(batch * L, -1)
    grad_channels = made.sum_channels(d)
    if rank <= LOW_RANK:
        grad_chosen.copy_(made.sum_rows(L))
        grad_dt_weight = grad_channels[:, N : N + rank]
    else:
        grad_chosen[..., rank:] = made.sum_rows(L)
        grad_delta, dt_weight = made.delta[..., :d].reshape(-1, d), given.dt_weight.to(x.dtype)
        # Products with few columns are quicker with few rows instead.
        grad_rows[:, :rank] = torch.mm(dt_weight.t().contiguous(), grad_delta.t()).t()
        grad_dt_weight = torch.mm(kept.chosen.view(batch * L, -1)[:, :rank].t(), grad_delta).t()
    grad_x = made.u[..., :d].reshape(-1, d).addmm_(grad_rows, kept.select).view(batch, L, d)
    _, grad_filters, grad_bias, before_first = convolve_backward(
        grad_x, grad_window, given.xz[..., :d], given.filters, given.filter_bias, given.window, silu=True,
        grad_x=grad_xz[..., :d],
    )  # fmt: skip
    found = (
        grad_xz,
        grad_filters,
        grad_bias,
        torch.mm(grad_rows.t(), x),
        grad_dt_weight,
        grad_channels[:, -1],
        grad_channels[:, :N] * kept.A,
        grad_channels[:, -2],
        before_first,
        None if given.state is None else unpack(made.carry, d),
    )
    return tuple(
        None if grad is None or x is None else grad.to(x.dtype) for grad, x in zip(found, given, strict=True)
    )
