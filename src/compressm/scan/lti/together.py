"""All threads on one piece after the other: the way for fewer sequences than threads.

PyTorch's matrix product projects a piece to states, the compiled recurrence runs over it in place, its states
divided among the threads, and a second product takes it to outputs.
"""

import torch
from torch import Tensor

from compressm.scan.lti.pieces import Piece, Pieces, kept_shape
from compressm.scan.runtime import FLOATS, Kernel, run_kernel

_MODULE = "compressm.scan.lti.recurrence"
_ADVANCE = {dtype: Kernel(_MODULE, f"advance_{name}") for dtype, name in FLOATS.items()}
_ADJOINT = {dtype: Kernel(_MODULE, f"adjoint_{name}") for dtype, name in FLOATS.items()}


def forward(
    u: Tensor, lam: Tensor, into: Tensor, out_of: Tensor, carry: Tensor, *, reverse: bool, keep: str
) -> tuple[Tensor, Tensor]:
    """Outputs, and what is kept; ``carry`` (batch, 2 N) becomes the final state."""
    (batch, length, _), (states, P) = u.shape, out_of.shape
    pieces = Pieces.of(batch, length, states * u.element_size())
    y = u.new_empty(batch, length, P)
    kept = u.new_empty(kept_shape(keep, batch, length, states // 2, u.element_size()))
    scratch = u.new_empty(0 if keep == "states" else pieces.sequences * pieces.steps, states)
    for piece in pieces.in_time(reverse=reverse):
        u_rows = piece.rows(u)
        x = piece.rows(kept) if keep == "states" else scratch[: u_rows.shape[0]]
        if keep == "checkpoints":
            kept[piece.first : piece.last, piece.index] = carry[piece.first : piece.last]
        torch.mm(u_rows, into.T, out=x)
        _advance(x, lam, carry[piece.first : piece.last], reverse=reverse)
        torch.mm(x, out_of, out=piece.rows(y))
    return y, kept


def backward(
    grad_y: Tensor | None, u: Tensor, lam: Tensor, into: Tensor, out_of: Tensor, start: Tensor, carry: Tensor,
    kept: Tensor, *, reverse: bool, keep: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, lambda (batch, 2 N; float64), ``into`` and ``out_of``.

    ``start`` is the state before the first step. ``carry`` is the gradient of the final state, and becomes
    that of ``start``.
    """
    batch, length, _ = u.shape
    states = into.shape[0]
    pieces = Pieces.of(batch, length, states * u.element_size())
    slope = torch.zeros(batch, states, dtype=torch.float64)
    grad_u, grad_into, grad_out_of = torch.empty_like(u), torch.zeros_like(into), torch.zeros_like(out_of)
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
            torch.mm(grad_y_rows, out_of.T, out=w)
            grad_out_of.addmm_(x.T, grad_y_rows)
        _adjoint(w, x, lam, before, carry[span], slope[span], reverse=reverse)
        grad_into.addmm_(w.T, u_rows)
        torch.mm(w, into, out=piece.rows(grad_u))
    return grad_u, slope, grad_into, grad_out_of


def _before(piece: Piece, pieces: Pieces, start: Tensor, kept: Tensor, *, reverse: bool, keep: str) -> Tensor:
    """The states (sequences, 2 N) that the piece started from."""
    span = slice(piece.first, piece.last)
    if keep == "checkpoints":
        return kept[span, piece.index].contiguous()
    if piece.index == (pieces.per_sequence - 1 if reverse else 0):
        return start[span]
    return kept[span, piece.stop if reverse else piece.start - 1].contiguous()


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
