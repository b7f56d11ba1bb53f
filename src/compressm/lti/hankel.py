"""Hankel singular values: how much each balanced state passes from past inputs to future outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressm.lti.gramians import gramian_factors
from compressm.lti.realization import Realization
from compressm.lti.triangular import gram_product

if TYPE_CHECKING:
    from compressm.lti.system import DiagonalSystem


def hankel_singular_values(system: DiagonalSystem, realization: Realization = "real") -> Tensor:
    """Singular values of ``L^H R`` with ``P = R R^H``, ``Q = L L^H``; never the root of ``eig(P Q)``.

    The product ``P Q`` squares the condition number: values below ``1e-8 sigma_1`` would be noise, and
    negative eigenvalues would become NaN.

    Returns:
        float64, descending: ``2N`` values for ``"real"``, ``N`` for ``"complex"``.
    """
    R, L = gramian_factors(system, realization)
    values: Tensor = torch.linalg.svdvals(gram_product(L, R))
    return values
