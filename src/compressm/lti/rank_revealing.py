"""Columns of a matrix that stand for all of them: strong rank-revealing QR (Gu and Eisenstat 1996).

QR with column pivoting takes, step by step, the column that is farthest from those it has. That is quick and
almost always good, but on some matrices the chosen columns are far closer to dependent than they need be.
Exchanging a chosen column for another one multiplies the volume that the chosen ones span by a number that
the factors show; as long as one exceeds a threshold, the exchange is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressm.lti.arithmetic import FloatArray

THRESHOLD = 1.5
"""Gain of volume from which columns are exchanged, as in the published selection of attention keys."""

MAX_SWAPS = 20
"""Exchanges at most, as there."""

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class ColumnSelection:
    """Columns in an order of preference, to be cut at one place.

    Attributes:
        columns: All columns ``(n,)``, the chosen ones first.
        rank: How many are chosen.
        swaps: Exchanges that were made after pivoting.
        ratio: The largest gain of volume that an exchange would still bring; at most the threshold, unless
            the number of exchanges ran out.
    """

    columns: Tensor
    rank: int
    swaps: int
    ratio: float


def pivoted_qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """QR with column pivoting: ``matrix[:, columns] = Q R`` (Businger and Golub 1965), without ``Q``.

    Args:
        matrix: ``(m, n)``, real.

    Returns:
        ``R`` ``(min(m, n), n)``, float64, upper triangular with diagonal entries that fall in size, and the
        columns ``(n,)`` in the order they were taken, of equally long ones the first.

    Raises:
        ValueError: If it is not a matrix, or not finite.
    """
    if matrix.dim() != 2 or matrix.is_complex() or matrix.numel() == 0:
        raise ValueError(f"pivoted_qr: give a real matrix (m, n), not {matrix.dtype} {tuple(matrix.shape)}")
    A = matrix.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(A).all()):
        raise ValueError("pivoted_qr: the matrix holds values that are not finite")
    if A.shape[0] > A.shape[1]:
        A = torch.linalg.qr(A, mode="r").R
    scale = float(A.abs().max()) or 1.0
    R: FloatArray = A.numpy() / scale
    columns = np.arange(R.shape[1])
    for j in range(min(R.shape)):
        # Lengths are computed afresh: those kept up to date lose their digits by cancellation.
        pivot = j + int(np.argmax(np.square(R[j:, j:]).sum(axis=0)))
        R[:, [j, pivot]], columns[[j, pivot]] = R[:, [pivot, j]], columns[[pivot, j]]
        _reflect(R[j:, j:])
    return torch.from_numpy(R * scale), torch.from_numpy(columns)


def strong_rank_revealing_qr(
    matrix: Tensor, rank: int, *, threshold: float = THRESHOLD, max_swaps: int = MAX_SWAPS
) -> ColumnSelection:
    r"""Choose ``rank`` columns that span nearly all the others do, by columns far from dependent.

    With ``k`` chosen of ``n`` columns and the threshold ``f`` met, the singular values of the chosen ones are
    at least ``\sigma_i / sqrt(1 + f^2 k (n - k))``, and those of what they leave at most ``sqrt(...)`` times
    ``\sigma_{k+i}`` (Gu and Eisenstat 1996, theorem 3.2).

    Args:
        matrix: ``(m, n)``, real.
        rank: ``k``, from 1 to ``n``. Beyond the numerical rank of the matrix columns follow as pivoting took
            them.
        threshold: ``f``, at least 1: exchange columns as long as that gains more volume.
        max_swaps: Exchanges at most.

    Raises:
        ValueError: If an argument is out of range, or the matrix is not finite.
    """
    if not 1 <= rank <= matrix.shape[-1]:
        raise ValueError(f"rank is {rank}; it must be from 1 to the {matrix.shape[-1]} columns")
    if not threshold >= 1 or max_swaps < 0:
        raise ValueError(
            f"threshold is {threshold} and max_swaps {max_swaps}; they must be at least 1 and at least 0"
        )
    R, columns = pivoted_qr(matrix)
    sizes = R.diagonal().abs()
    chosen = min(rank, int((sizes > len(columns) * _EPS * sizes[0]).sum()))
    if chosen in (0, len(columns)):
        return ColumnSelection(columns, rank, 0, 0.0)
    swaps, gains = 0, exchange_gains(R, chosen)
    while float(gains.max()) > threshold and swaps < max_swaps:
        out, into = divmod(int(gains.argmax()), gains.shape[1])
        order = torch.arange(len(columns))
        order[[out, chosen + into]] = order[[chosen + into, out]]
        columns, R = columns[order], torch.linalg.qr(R[:, order], mode="r").R
        swaps, gains = swaps + 1, exchange_gains(R, chosen)
    return ColumnSelection(columns, rank, swaps, float(gains.max()))


def exchange_gains(R: Tensor, chosen: int) -> Tensor:
    """What exchanging one of the first columns for a later one multiplies the volume of the first ones by.

    ``rho_ij = sqrt((A^-1 B)_ij^2 + (|C_j| |row i of A^-1|)^2)`` for ``R = [A B; 0 C]`` (Gu and Eisenstat
    1996, lemma 3.1).

    Args:
        R: Upper triangular, ``(m, n)``, float64.
        chosen: ``k``, how many columns come first; they must be independent.

    Returns:
        ``(k, n - k)``.
    """
    A, B, C = R[:chosen, :chosen], R[:chosen, chosen:], R[chosen:, chosen:]
    inverse = torch.linalg.solve_triangular(A, torch.eye(chosen, dtype=R.dtype), upper=True)
    return torch.hypot(inverse @ B, inverse.norm(dim=1)[:, None] * C.norm(dim=0))


def _reflect(block: FloatArray) -> None:
    """Turn the first column onto the first axis, in place, by a Householder reflection of all columns."""
    length = float(np.linalg.norm(block[:, 0]))
    if length == 0.0:
        return
    v = block[:, 0].copy()
    v[0] += np.copysign(length, v[0])
    v /= np.linalg.norm(v)
    block -= 2.0 * np.outer(v, v @ block)
    block[1:, 0] = 0.0
