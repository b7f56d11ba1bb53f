"""Products that leave zeros out, against plain ones."""

from __future__ import annotations

import pytest
import torch

from compressm.lti.triangular import gram_product, times


def lower(rows: int, columns: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=dtype).tril()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    ("rows", "left", "right"), [(300, 300, 300), (300, 140, 300), (130, 500, 40), (5, 5, 5)]
)
def test_products_are_those_of_all_entries(dtype: torch.dtype, rows: int, left: int, right: int) -> None:
    L, R = lower(rows, left, dtype, 0), lower(rows, right, dtype, 1)
    dense = torch.ones_like(L) + L
    torch.testing.assert_close(gram_product(L, R), L.mH @ R, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(gram_product(dense, R), dense.mH @ R, rtol=0.0, atol=1e-12)
    for matrix in (L, dense):
        torch.testing.assert_close(times(matrix, L.mH), matrix @ L.mH, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("place", [(0, 299), (127, 128), (290, 299)])
def test_a_single_entry_above_the_diagonal_counts(place: tuple[int, int]) -> None:
    L, R = lower(300, 300, torch.float64, 0), lower(300, 300, torch.float64, 1)
    L[place] = 1.0
    torch.testing.assert_close(gram_product(L, R), L.mT @ R, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(gram_product(R, L), R.mT @ L, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(times(L, R), L @ R, rtol=0.0, atol=1e-12)
