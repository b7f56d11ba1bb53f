"""Sums of outer products: a Hermitian matrix, of which one triangle is computed and mirrored."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 192  # rows of the sum at a time: 62 % of the multiplications at 768, and products that stay large
_ROWS = 1024  # vectors at a time: their copy in double precision is all the memory it takes


def outer_products(vectors: Tensor, *, total: Tensor | None = None) -> Tensor:
    """``sum_k x_k x_k^H`` on and above the diagonal; what is below has no meaning.

    Args:
        vectors: ``x_k`` as rows, ``(K, n)``, real or complex, of any precision.
        total: ``(n, n)``, float64 or complex128: a sum to add to, in place.

    Returns:
        ``total``, or a new float64 or complex128 matrix; complete once :func:`mirrored`.
    """
    size = vectors.shape[1]
    if total is None:
        dtype = torch.complex128 if vectors.is_complex() else torch.float64
        total = torch.zeros(size, size, dtype=dtype)
    for rows in torch.split(vectors, _ROWS):
        part = rows.to(total.dtype)
        for start in range(0, size, _BLOCK):
            block = part[:, start : start + _BLOCK]
            total[start : start + _BLOCK, start:].addmm_(block.mT, part[:, start:].conj())
    return total


def mirrored(upper: Tensor) -> Tensor:
    """The Hermitian matrix whose part on and above the diagonal is given.

    Its diagonal is real, where some processors' products leave an imaginary part of rounding errors.
    """
    whole = upper.triu() + upper.triu(1).mH
    if whole.is_complex():
        whole.diagonal(dim1=-2, dim2=-1).imag.zero_()
    return whole
