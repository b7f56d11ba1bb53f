"""Factors of a Gramian at its numerical rank: pivoted Cholesky, in float64."""

import numpy as np
import torch
from torch import Tensor

from compressm.lti.arithmetic import Array

_EPS = torch.finfo(torch.float64).eps
_MARGIN = 1e3  # pivots of the plain factorisation may exceed the best possible ones


def numerical_factor(gramian: Tensor) -> Tensor:
    """Columns ``F`` with ``G = F F^H`` to rounding, and no more of them than the numerical rank.

    The Gramian is scaled to unit diagonal first, so that weak states keep as many digits as strong ones, and
    the elimination ends where ``N eps`` of that diagonal is left: later columns would be rounding.

    Args:
        gramian: Hermitian and positive semidefinite, ``(N, N)``, float64 or complex128 on the CPU; rows of
            zeros are states that nothing reaches.

    Returns:
        ``(N, rank)``, of the same type.
    """
    scale = gramian.diagonal().real.clamp(min=0.0).sqrt()
    inverse = torch.where(scale > 0, 1.0 / torch.where(scale > 0, scale, 1.0), 0.0)
    matrix = inverse[:, None] * gramian * inverse
    least = len(matrix) * _EPS
    # Of full rank by a wide margin, as most layers are: the blocked factorisation does, and is faster.
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed) or float(factor.diagonal().real.square().min()) <= _MARGIN * least:
        factor = torch.from_numpy(_pivoted(matrix.resolve_conj().numpy(), least))
    scaled: Tensor = scale[:, None] * factor
    return scaled


def _pivoted(matrix: Array, least: float) -> Array:
    """Cholesky with diagonal pivoting; stops when no more than ``least`` is left of any diagonal entry."""
    left = matrix.diagonal().real.copy()
    size = len(matrix)
    rows = np.zeros_like(matrix)  # row k is column k of the factor, contiguous
    eliminated = np.zeros(size, dtype=bool)
    rank = 0
    while rank < size:
        pivot = int(left.argmax())
        if left[pivot] <= least:
            break
        row = rows[rank]
        np.subtract(matrix[pivot].conj(), rows[:rank].T @ rows[:rank, pivot].conj(), out=row)
        row /= np.sqrt(left[pivot])
        # Zero by construction: what stands there is rounding, enlarged by a small pivot.
        row[eliminated] = 0.0
        row[pivot] = np.sqrt(left[pivot])
        left -= np.abs(row) ** 2
        eliminated[pivot] = True
        left[eliminated] = 0.0
        rank += 1
    factor: Array = rows[:rank].T
    return factor
