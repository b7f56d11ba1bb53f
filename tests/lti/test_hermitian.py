import pytest
import torch
from torch import Tensor

from compressm.lti.hermitian import mirrored, outer_products


def by_hand(vectors: Tensor) -> Tensor:
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float64))
    total = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=wide.dtype)
    for x in wide:
        total += torch.outer(x, x.conj())
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 3), (5, 192), (3, 193), (1030, 5), (9, 400)])
def test_a_sum_of_outer_products(dtype: torch.dtype, count: int, size: int) -> None:
    vectors = torch.randn(count, size, dtype=dtype, generator=torch.Generator().manual_seed(size))
    total, expected = mirrored(outer_products(vectors)), by_hand(vectors)
    assert total.dtype == expected.dtype
    torch.testing.assert_close(total, expected, rtol=1e-13, atol=1e-12)
    assert torch.equal(total, total.mH)


def test_it_adds_to_a_sum_in_place() -> None:
    first = torch.randn(6, 200, generator=torch.Generator().manual_seed(0))
    second = torch.randn(4, 200, generator=torch.Generator().manual_seed(1))
    total = outer_products(first)
    assert outer_products(second, total=total) is total
    torch.testing.assert_close(mirrored(total), by_hand(torch.cat([first, second])), rtol=1e-13, atol=1e-12)


def test_strided_rows_and_transposed_matrices() -> None:
    vectors = torch.randn(12, 5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(mirrored(outer_products(vectors[::3])), by_hand(vectors[::3]))
    torch.testing.assert_close(mirrored(outer_products(vectors.mT)), by_hand(vectors.mT))
