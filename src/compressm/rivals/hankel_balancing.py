"""Hankel singular values from two Gramians, with the bases that balance them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from compressm.lti.triangular import gram_product, times
from compressm.rivals.hankel_gramians import Weight
from compressm.rivals.numerical_factor import numerical_factor

CUTOFF = 1e-10
"""Values up to this share of the largest count as zero: below it the balanced bases amplify rounding."""


class Balanced(NamedTuple):
    """Values, and the bases that balance: ``T_l P T_l^H = T_r^H Q T_r = Sigma``, ``T_l T_r = 1``.

    Attributes:
        values: ``(r,)``, descending and positive.
        left: ``T_l^H``, ``(n, r)``.
        right: ``T_r``, ``(n, r)``.
    """

    values: Tensor
    left: Tensor
    right: Tensor

    def weights(self, slopes: Tensor, *, real: bool) -> tuple[Weight, Weight]:
        """Those of ``P`` and ``Q`` in the change of ``sum slopes_i sigma_i``: a value moves by half of each.

        Args:
            slopes: ``(r,)``, float64.
            real: Whether the Gramians are those of the real form.
        """
        half = 0.5 * slopes
        return (
            Weight.of(_weighted_gram(self.left, half), real=real),
            Weight.of(_weighted_gram(self.right, half), real=real),
        )


def balanced(P: Tensor, Q: Tensor) -> Balanced:
    """By the singular value decomposition of ``L^H R`` with ``P = R R^H``, ``Q = L L^H``.

    Args:
        P: Controllability Gramian, ``(n, n)``, float64 or complex128 on the CPU.
        Q: Observability Gramian, of the same kind.

    Returns:
        The values above :data:`CUTOFF` of the largest.
    """
    R, L = numerical_factor(P), numerical_factor(Q)
    U, sigma, Vh = torch.linalg.svd(gram_product(L, R), full_matrices=False)
    kept = int((sigma > CUTOFF * sigma[0]).sum()) if len(sigma) else 0
    sigma = sigma[:kept]
    root = sigma.sqrt()
    return Balanced(sigma, times(L, U[:, :kept] / root), times(R, Vh[:kept].mH / root))


def _weighted_gram(columns: Tensor, weights: Tensor) -> Tensor:
    """``F diag(weights) F^H`` for columns ``F``, ``(n, r)``; the weights, ``(r,)``, are real.

    The upper right quarter of the product is the mirror image of the lower left one.
    """
    middle = len(columns) // 2
    top, bottom = columns[:middle], columns[middle:] * weights
    result = columns.new_empty(len(columns), len(columns))
    result[middle:] = bottom @ columns.mH
    result[:middle, :middle] = (top * weights) @ top.mH
    result[:middle, middle:] = result[middle:, :middle].mH
    return result
