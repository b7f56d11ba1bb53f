"""Products with matrices that may be lower triangular, as Cholesky factors are: zeros are not multiplied."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 128  # rows at a time: at 768, 40 % of the multiplications of a Gram product, 58 % of the others


def gram_product(left: Tensor, right: Tensor) -> Tensor:
    """``left^H right``, for ``(n, m)`` and ``(n, k)``."""
    heights, widths = _widths(left), _widths(right)
    if heights is None or widths is None:
        return left.mH @ right
    product = left.new_zeros(left.shape[1], right.shape[1])
    for start, height, width in zip(range(0, len(left), _BLOCK), heights, widths, strict=True):
        here = slice(start, start + _BLOCK)
        product[:height, :width].addmm_(left[here, :height].mH, right[here, :width])
    return product


def times(left: Tensor, right: Tensor) -> Tensor:
    """``left right``, for ``(n, m)`` and ``(m, k)``."""
    widths = _widths(left)
    if widths is None:
        return left @ right
    return torch.cat(
        [
            left[start : start + _BLOCK, :width] @ right[:width]
            for start, width in zip(range(0, len(left), _BLOCK), widths, strict=True)
        ]
    )


def _widths(matrix: Tensor) -> list[int] | None:
    """How many columns of each block of rows may hold something; None if it is not lower triangular."""
    widths = []
    for start in range(0, len(matrix), _BLOCK):
        stop = start + _BLOCK
        if bool(matrix[start:stop, stop:].any()):
            return None
        widths.append(min(stop, matrix.shape[1]))
    return widths
