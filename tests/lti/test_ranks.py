from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressm.lti import energy_rank, error_bound, error_bound_rank

VALUES = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=30).map(
    lambda values: torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
)


def test_error_bound_is_twice_the_tail() -> None:
    values = torch.tensor([4.0, 2.0, 1.0, 0.5])
    assert [error_bound(values, keep) for keep in range(5)] == [15.0, 7.0, 3.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("values", "tolerance", "rank"),
    [
        ([4.0, 3.0, 2.0, 1.0], 0.0, 4),
        ([4.0, 3.0, 2.0, 1.0], 0.1, 3),
        ([4.0, 3.0, 2.0, 1.0], 0.29, 3),
        ([4.0, 3.0, 2.0, 1.0], 0.3, 2),
        ([4.0, 3.0, 2.0, 1.0], 0.999, 1),
        ([1.0, 1.0, 1.0, 1.0], 0.5, 2),
        ([1.0, 1.0, 1.0, 1.0], 0.0, 4),
        ([3.0, 1.0, 0.0, 0.0], 0.0, 2),
        ([1.0, 1e-300], 0.0, 2),
        ([0.0, 0.0, 0.0], 0.0, 1),
        ([0.0, 0.0, 0.0], 0.5, 1),
        ([2.0], 0.9, 1),
    ],
)
def test_energy_rank(values: list[float], tolerance: float, rank: int) -> None:
    assert energy_rank(torch.tensor(values, dtype=torch.float64), tolerance) == rank


@pytest.mark.parametrize(
    ("values", "eps", "rank"),
    [([4.0, 2.0, 1.0], 0.0, 3), ([4.0, 2.0, 1.0], 0.5, 2), ([4.0, 2.0, 1.0], 2.0, 1), ([0.0, 0.0], 0.0, 1)],
)
def test_error_bound_rank(values: list[float], eps: float, rank: int) -> None:
    assert error_bound_rank(torch.tensor(values), eps) == rank


@settings(max_examples=200, deadline=None, derandomize=True)
@given(VALUES, st.floats(0.0, 0.999), st.floats(0.0, 0.999))
def test_monotone_and_in_range(values: torch.Tensor, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 1 <= energy_rank(values, high) <= energy_rank(values, low) <= len(values)
    assert 1 <= error_bound_rank(values, high) <= error_bound_rank(values, low) <= len(values)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(VALUES, st.floats(0.001, 0.999))
def test_ranks_meet_their_definition(values: torch.Tensor, tolerance: float) -> None:
    rank, total = energy_rank(values, tolerance), float(values.sum())
    slack = 1e-12 * total
    assert float(values[:rank].sum()) >= (1 - tolerance) * total - slack
    assert rank == 1 or float(values[: rank - 1].sum()) <= (1 - tolerance) * total + slack
    rank = error_bound_rank(values, tolerance)
    assert error_bound(values, rank) <= tolerance * float(values[0]) + slack
    assert rank == 1 or error_bound(values, rank - 1) >= tolerance * float(values[0]) - slack


@pytest.mark.parametrize("tolerance", [1.0, -0.1, 2.0, math.nan])
def test_tolerance_outside_its_range(tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"tolerance must be in \[0, 1\)"):
        energy_rank(torch.ones(3), tolerance)


@pytest.mark.parametrize("eps", [-1.0, math.nan, math.inf])
def test_eps_outside_its_range(eps: float) -> None:
    with pytest.raises(ValueError, match="eps must be finite and >= 0"):
        error_bound_rank(torch.ones(3), eps)


def test_values_that_are_none() -> None:
    with pytest.raises(ValueError, match="must be finite, got nan at index 1"):
        energy_rank(torch.tensor([1.0, math.nan]), 0.1)
    with pytest.raises(ValueError, match="descending order"):
        error_bound_rank(torch.tensor([1.0, 2.0]), 0.1)
    with pytest.raises(ValueError, match=">= 0"):
        error_bound(torch.tensor([1.0, -1.0]), 1)
    with pytest.raises(ValueError, match=r"non-empty vector, got shape \(0,\)"):
        energy_rank(torch.tensor([]), 0.1)
    with pytest.raises(ValueError, match=r"keep must be in 0..2, got 3"):
        error_bound(torch.ones(2), 3)
