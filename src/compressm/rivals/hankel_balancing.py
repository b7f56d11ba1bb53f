"""Hankel singular values from two Gramians with balanced bases: to the last digits, or faster."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from compressm.rivals.numerical_factor import numerical_factor

CUTOFF = 1e-10
"""Values up to this share of the largest count as zero: below it the balanced bases amplify rounding."""

SQUARED_CUTOFF = 1e-6
"""No value above this share of the largest is left out by the squared form."""

_EPS = torch.finfo(torch.float64).eps
_CLEAR = 100.0  # times what rounding may hide: such a value is exact to 1e-5


class Balanced(NamedTuple):
    """Values, and two factors of each of the bases that balance: ``T_l P T_l^H = T_r^H Q T_r = Sigma``.

    Attributes:
        values: ``(r,)``, descending and positive.
        left: ``T_l^H`` is the product of the two, ``(n, m)`` and ``(m, r)``.
        right: ``T_r`` is, of the same shapes.
    """

    values: Tensor
    left: tuple[Tensor, Tensor]
    right: tuple[Tensor, Tensor]


def balanced(P: Tensor, Q: Tensor) -> Balanced:
    """By the singular value decomposition of ``L^H R`` with ``P = R R^H``, ``Q = L L^H``.

    Args:
        P: Controllability Gramian, ``(n, n)``, float64 or complex128 on the CPU.
        Q: Observability Gramian, of the same kind.

    Returns:
        The values above :data:`CUTOFF` of the largest.
    """
    R, L = numerical_factor(P), numerical_factor(Q)
    U, sigma, Vh = torch.linalg.svd(L.mH @ R, full_matrices=False)
    kept = int((sigma > CUTOFF * sigma[0]).sum()) if len(sigma) else 0
    sigma = sigma[:kept]
    root = sigma.sqrt()
    return Balanced(sigma, (L, U[:, :kept] / root), (R, Vh[:kept].mH / root))


def balanced_by_square(P: Tensor, Q: Tensor) -> Balanced:
    """By the eigenvalues of ``R^H Q R``, the squares: in two thirds of the time of :func:`balanced`.

    Rounding in the squares hides values up to the root of the machine precision, relative to ``kappa =
    sqrt(sum_i P_ii Q_ii)``, the norm of what each state is for itself, or to the largest value if that is
    more.  Those are left out.  ``kappa`` is far above the largest value only where states cancel each other
    nearly; if what it hides may come near :data:`SQUARED_CUTOFF`, the answer is that of :func:`balanced`.

    The gradient lacks what is left out.  That may show where a value is close to 0, and the sum of the
    values has a kink: two states about to become one, for instance.  Otherwise it is little.
    Measured on an LRU of 256 states, 8 channels: the gradient of the sum differs from that of
    :func:`balanced` by less than 1e-8 (complex form) and 2e-4 (real form: values below the cutoff) of its
    norm, for any parameter, at the initialisation and after training with the sum in the loss.

    Arguments are those of :func:`balanced`.

    Returns:
        All values above a share of the largest that is usually ``6e-8``, and at most
        :data:`SQUARED_CUTOFF`.
    """
    R = numerical_factor(P)
    QR, square = _congruence(Q, R)
    eigenvalues, V = torch.linalg.eigh(square)
    sigma = eigenvalues.clamp(min=0.0).sqrt()
    largest, least = (float(sigma[-1]), float(sigma[0])) if len(sigma) else (0.0, 0.0)
    alone = math.sqrt(float(P.diagonal().real @ Q.diagonal().real))
    hidden = 4.0 * math.sqrt(_EPS) * max(alone, largest)
    if hidden > SQUARED_CUTOFF * largest and least < _CLEAR * hidden:
        return balanced(P, Q)
    first = int((sigma <= hidden).sum())
    sigma, V = sigma[first:].flip(0), V[:, first:].flip(1)
    root = sigma.sqrt()
    # L U of the singular value decomposition is Q R V / sigma: no second factorisation is needed.
    return Balanced(sigma, (QR, V / (root * sigma)), (R, V / root))


def weighted_gram(factors: tuple[Tensor, Tensor], weights: Tensor) -> Tensor:
    """``F diag(weights) F^H`` with ``F`` the product of the factors; the weights, ``(r,)``, are real.

    The upper right quarter of the product is the mirror image of the lower left one.
    """
    columns = _times(*factors)
    middle = len(columns) // 2
    top, bottom = columns[:middle], columns[middle:] * weights
    result = columns.new_empty(len(columns), len(columns))
    result[middle:] = bottom @ columns.mH
    result[:middle, :middle] = (top * weights) @ top.mH
    result[:middle, middle:] = result[middle:, :middle].mH
    return result


def _congruence(Q: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """``Q R``, and ``R^H Q R``, whose upper right quarter is left out where ``R`` is triangular."""
    middle = len(R) // 2
    if not _is_lower(R):
        QR = Q @ R
        return QR, R.mH @ QR
    QR = torch.cat((Q @ R[:, :middle], Q[:, middle:] @ R[middle:, middle:]), dim=1)
    square = torch.zeros_like(Q)
    square[:middle, :middle] = R[:, :middle].mH @ QR[:, :middle]
    square[middle:] = R[middle:, middle:].mH @ QR[middle:]
    return QR, square  # the decomposition reads the lower triangle


def _times(left: Tensor, right: Tensor) -> Tensor:
    """Their product, in three quarters of the time where the left one is lower triangular."""
    if not _is_lower(left):
        return left @ right
    middle = len(left) // 2
    return torch.cat((left[:middle, :middle] @ right[:middle], left[middle:] @ right))


def _is_lower(factor: Tensor) -> bool:
    """Whether a factor is square with nothing in its upper right quarter."""
    middle = len(factor) // 2
    return factor.shape[0] == factor.shape[1] and not bool(factor[:middle, middle:].any())
