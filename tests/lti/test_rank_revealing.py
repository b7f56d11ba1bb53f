"""Pivoting against SciPy's, exchanges against determinants, and the bounds of Gu and Eisenstat."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressm.lti.rank_revealing import exchange_gains, pivoted_qr, strong_rank_revealing_qr


def kahan(n: int, angle: float = 1.2) -> torch.Tensor:
    """Kahan's matrix: pivoting leaves its columns in place (kept from ties by a small shrinkage)."""
    s, c = np.sin(angle), np.cos(angle)
    upper = np.eye(n) - c * np.triu(np.ones((n, n)), 1)
    shrink = (1 - 1e-10) ** np.arange(n)
    return torch.from_numpy(np.diag(s ** np.arange(n)) @ upper * shrink)


def random_matrix(seed: int, rows: int, columns: int, decay: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return matrix * torch.exp(-decay * torch.randn(columns, generator=generator, dtype=torch.float64))


shapes = {
    "seed": st.integers(0, 10_000),
    "rows": st.integers(1, 14),
    "columns": st.integers(2, 11),
    "decay": st.sampled_from([0.0, 0.5, 3.0]),
}


@settings(max_examples=60, deadline=None)
@given(**shapes)
def test_pivoting_is_scipys(seed: int, rows: int, columns: int, decay: float) -> None:
    matrix = random_matrix(seed, rows, columns, decay)
    R, order = pivoted_qr(matrix)
    theirs, pivots = scipy.linalg.qr(matrix.numpy(), mode="r", pivoting=True)[:2]
    size = min(rows, columns)
    np.testing.assert_array_equal(order[:size], pivots[:size])
    np.testing.assert_allclose(
        R.diagonal().abs(), np.abs(np.diagonal(theirs)), rtol=1e-9, atol=1e-14 * abs(theirs[0, 0])
    )
    scale = float(matrix.norm()) ** 2
    torch.testing.assert_close(
        R.mT @ R, matrix[:, order].mT @ matrix[:, order], atol=1e-13 * scale, rtol=1e-9
    )
    assert torch.equal(R, R.triu())


@settings(max_examples=60, deadline=None)
@given(**shapes, share=st.floats(0.0, 1.0))
def test_no_exchange_gains_more_than_the_threshold(
    seed: int, rows: int, columns: int, decay: float, share: float
) -> None:
    matrix = random_matrix(seed, rows, columns, decay)
    rank = 1 + int(share * (min(rows, columns) - 1))
    found = strong_rank_revealing_qr(matrix, rank, threshold=1.1, max_swaps=1000)
    assert sorted(found.columns.tolist()) == list(range(columns))
    kept, rest = found.columns[:rank], found.columns[rank:]
    volume = _volume(matrix[:, kept])
    for i, j in itertools.product(range(rank), range(columns - rank)):
        exchanged = kept.clone()
        exchanged[i] = rest[j]
        assert _volume(matrix[:, exchanged]) <= 1.1 * volume * (1 + 1e-6)
    bound = np.sqrt(1 + 1.1**2 * rank * (columns - rank))
    whole = torch.linalg.svdvals(matrix)[:rank]
    part = torch.linalg.svdvals(matrix[:, kept])[:rank]
    assert bool((part * bound >= whole * (1 - 1e-9)).all())


@pytest.mark.parametrize(("n", "rank"), [(40, 39), (64, 63)])
def test_kahans_matrix_defeats_pivoting_but_not_exchanges(n: int, rank: int) -> None:
    matrix = kahan(n)
    pivots = scipy.linalg.qr(matrix.numpy(), mode="r", pivoting=True)[1]
    sigma = float(torch.linalg.svdvals(matrix)[rank - 1])
    bound = np.sqrt(1 + 1.5**2 * rank * (n - rank))
    by_pivoting = float(torch.linalg.svdvals(matrix[:, pivots[:rank].copy()])[-1])
    found = strong_rank_revealing_qr(matrix, rank)
    by_exchange = float(torch.linalg.svdvals(matrix[:, found.columns[:rank]])[-1])
    assert by_pivoting * bound < sigma
    assert by_exchange * bound >= sigma
    assert found.swaps >= 1
    assert found.ratio <= 1.5
    assert strong_rank_revealing_qr(matrix, rank, max_swaps=0).ratio > 1.5


def test_gains_are_ratios_of_volumes() -> None:
    matrix = random_matrix(0, 6, 5, 0.5)
    R = torch.linalg.qr(matrix, mode="r").R
    gains = exchange_gains(R, 2)
    for i, j in itertools.product(range(2), range(3)):
        exchanged = [0, 1]
        exchanged[i] = 2 + j
        ratio = _volume(matrix[:, exchanged]) / _volume(matrix[:, :2])
        assert gains[i, j].item() == pytest.approx(ratio, rel=1e-10)


def test_dependent_and_zero_columns_come_last() -> None:
    basis = random_matrix(1, 20, 3, 0.0)
    matrix = torch.zeros(20, 8, dtype=torch.float64)
    matrix[:, [1, 4, 6]] = basis
    matrix[:, 7] = basis[:, 0] * 1e-3  # depends on column 1
    found = strong_rank_revealing_qr(matrix, 5)
    assert set(found.columns[:3].tolist()) == {1, 4, 6}
    assert found.ratio <= 1.5
    nothing = strong_rank_revealing_qr(torch.zeros(3, 4), 2)
    assert nothing.columns.tolist() == [0, 1, 2, 3]
    assert strong_rank_revealing_qr(matrix, 8).columns.sort().values.tolist() == list(range(8))


def test_far_scales_neither_overflow_nor_vanish() -> None:
    matrix = random_matrix(2, 9, 6, 0.5)
    expected = pivoted_qr(matrix)[1]
    for scale in (1e-200, 1e200):
        assert torch.equal(pivoted_qr(matrix * scale)[1], expected)


def test_arguments_are_checked() -> None:
    matrix = torch.ones(3, 4)
    with pytest.raises(ValueError, match="rank is 5"):
        strong_rank_revealing_qr(matrix, 5)
    with pytest.raises(ValueError, match=r"threshold is 0\.5"):
        strong_rank_revealing_qr(matrix, 2, threshold=0.5)
    with pytest.raises(ValueError, match="not finite"):
        pivoted_qr(matrix * torch.nan)
    with pytest.raises(ValueError, match=r"real matrix \(m, n\)"):
        pivoted_qr(matrix[0])


def _volume(matrix: torch.Tensor) -> float:
    return float(torch.linalg.svdvals(matrix).prod())
