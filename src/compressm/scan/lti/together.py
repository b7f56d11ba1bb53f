"""All threads on one piece after the other: the way for fewer sequences than threads, and for bfloat16.

PyTorch's matrix product projects a piece to states, the compiled recurrence runs over it in place, its states
divided among the threads, and a second product takes it to outputs.

In bfloat16 all that products read and write is rounded, as in any layer under autocast; states pass from step
to step, and gradients of weights from piece to piece, in float32. PyTorch's own products then run at twice
the speed and more, MKL's, which a kernel could call, hardly faster than in float32 on some processors.
"""

import torch
from torch import Tensor

from compressm.scan.lti.pieces import Piece, Pieces, kept_shape
from compressm.scan.runtime import FLOATS, Kernel, run_kernel

_MODULE = "compressm.scan.lti.recurrence"
_ADVANCE = {dtype: Kernel(_MODULE, f"advance_{name}") for dtype, name in FLOATS.items()}
_ADJOINT = {dtype: Kernel(_MODULE, f"adjoint_{name}") for dtype, name in FLOATS.items()}
_ADVANCE[torch.bfloat16] = Kernel(f"{_MODULE}_half", "advance_bfloat16")
_ADJOINT[torch.bfloat16] = Kernel(f"{_MODULE}_half", "adjoint_bfloat16")


def forward(
    u: Tensor, lam: Tensor, into: Tensor, out_of: Tensor, carry: Tensor,
    *, reverse: bool, keep: str, half: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Outputs, and what is kept; ``carry`` (batch, 2 N) becomes the final state. ``half``: in bfloat16."""
    (batch, length, _), (P, states) = u.shape, out_of.shape
    kept, dtype = new_kept(u, states // 2, keep, half=half), torch.bfloat16 if half else u.dtype
    u, into, out_of = u.to(dtype), into.to(dtype), out_of.to(dtype)
    pieces = Pieces.of(batch, length, states * carry.element_size())
    y = u.new_empty(batch, length, P)
    scratch = u.new_empty(0 if keep == "states" else pieces.sequences * pieces.steps, states)
    for piece in pieces.in_time(reverse=reverse):
        u_rows = piece.rows(u)
        x = piece.rows(kept) if keep == "states" else scratch[: u_rows.shape[0]]
        if keep == "checkpoints":
            kept[piece.first : piece.last, piece.index] = carry[piece.first : piece.last]
        torch.mm(u_rows, into.T, out=x)
        _advance(x, lam, carry[piece.first : piece.last], reverse=reverse)
        torch.mm(x, out_of.T, out=piece.rows(y))
    return y.to(carry.dtype), kept


def new_kept(u: Tensor, N: int, keep: str, *, half: bool = False) -> Tensor:
    """Room for what :func:`forward` keeps: in bfloat16 states are rounded, those before pieces are not."""
    batch, length, _ = u.shape
    dtype = torch.bfloat16 if half and keep == "states" else u.dtype
    cut = Pieces.of(batch, length, 2 * N * u.element_size())
    return u.new_empty(kept_shape(keep, cut, N), dtype=dtype)


def backward(
    grad_y: Tensor | None, u: Tensor, lam: Tensor, into: Tensor, out_of: Tensor, start: Tensor, carry: Tensor,
    kept: Tensor, *, reverse: bool, keep: str, half: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, lambda (batch, 2 N; float64), ``into`` and ``out_of``.

    ``start`` is the state before the first step. ``carry`` is the gradient of the final state, and becomes
    that of ``start``.
    """
    batch, length, _ = u.shape
    states = into.shape[0]
    pieces = Pieces.of(batch, length, states * carry.element_size())
    slope = carry.new_zeros(batch, states, dtype=torch.float64)
    grad_into, grad_out_of = torch.zeros_like(into), torch.zeros_like(out_of)
    dtype = torch.bfloat16 if half else u.dtype
    u, into, out_of = u.to(dtype), into.to(dtype), out_of.to(dtype)
    grad_y, grad_u = None if grad_y is None else grad_y.to(dtype), torch.empty_like(u)
    rows = pieces.sequences * pieces.steps
    x_scratch = u.new_empty(0 if keep == "states" else rows, states)
    w_scratch = u.new_empty(rows, states)
    for piece in pieces.in_time(reverse=not reverse):
        u_rows, span = piece.rows(u), slice(piece.first, piece.last)
        before = _before(piece, pieces, start, kept, reverse=reverse, keep=keep)
        if keep == "states":
            x = piece.rows(kept)
        else:
            x = x_scratch[: u_rows.shape[0]]
            torch.mm(u_rows, into.T, out=x)
            _advance(x, lam, before.clone(), reverse=reverse)
        w = w_scratch[: u_rows.shape[0]]
        if grad_y is None:
            w.zero_()
        else:
            grad_y_rows = piece.rows(grad_y)
            torch.mm(grad_y_rows, out_of, out=w)
            _accumulate(grad_out_of, grad_y_rows.T, x)
        _adjoint(w, x, lam, before, carry[span], slope[span], reverse=reverse)
        _accumulate(grad_into, w.T, u_rows)
        torch.mm(w, into, out=piece.rows(grad_u))
    return grad_u.to(carry.dtype), slope, grad_into, grad_out_of


def _accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a b``, the sum over pieces in the total's own dtype."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)


def _before(piece: Piece, pieces: Pieces, start: Tensor, kept: Tensor, *, reverse: bool, keep: str) -> Tensor:
    """The states (sequences, 2 N) that the piece started from."""
    span = slice(piece.first, piece.last)
    if keep == "checkpoints":
        return kept[span, piece.index].contiguous()
    if piece.index == (pieces.per_sequence - 1 if reverse else 0):
        return start[span]
    return kept[span, piece.stop if reverse else piece.start - 1].to(start.dtype, copy=True)


def _layout(rows: Tensor, carry: Tensor, *, reverse: bool) -> tuple[list[int], int]:
    """Words common to both kernels, and the number of workers."""
    sequences, N = carry.shape[0], carry.shape[1] // 2
    workers = torch.get_num_threads()
    # Fewer sequences than workers: cut the states into blocks of cache lines, too.
    blocks = 1 if sequences % workers == 0 else min(workers, -(-N // 16))
    return [sequences, rows.shape[0] // sequences, N, blocks, int(reverse)], workers


def _advance(rows: Tensor, lam: Tensor, carry: Tensor, *, reverse: bool) -> None:
    words, workers = _layout(rows, carry, reverse=reverse)
    run_kernel(_ADVANCE[rows.dtype], [*words, rows.data_ptr(), lam.data_ptr(), carry.data_ptr()], workers)


def _adjoint(
    rows: Tensor, states: Tensor, lam: Tensor, before: Tensor, carry: Tensor, slope: Tensor, *, reverse: bool
) -> None:
    words, workers = _layout(rows, carry, reverse=reverse)
    pointers = [tensor.data_ptr() for tensor in (rows, lam, carry, states, before, slope)]
    run_kernel(_ADJOINT[rows.dtype], [*words, *pointers], workers)
