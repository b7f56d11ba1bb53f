"""Assignments against SciPy and brute force; measures of order against SciPy."""

from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import kendalltau, spearmanr

from compressm.compression.tracking.assignment import (
    best_pairs,
    crossings,
    linear_assignment,
    match_values,
    rank_correlation,
)


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (1, 1), (2, 9), (13, 13), (40, 57)])
@pytest.mark.parametrize("ties", [False, True])
def test_assignments_cost_as_little_as_scipys(rows: int, columns: int, ties: bool) -> None:
    rng = np.random.default_rng([rows, columns])
    for _ in range(10):
        cost = rng.standard_normal((rows, columns))
        if ties:
            cost = np.round(cost)
        found = linear_assignment(cost)
        assert len(set(found.tolist())) == rows
        best = cost[linear_sum_assignment(cost)].sum()
        assert cost[np.arange(rows), found].sum() == pytest.approx(best, abs=1e-12)


def test_impossible_costs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"as many rows as columns, got shape \(3, 2\)"):
        linear_assignment(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"cost\[1, 0\] is nan"):
        linear_assignment(np.array([[0.0, 1.0], [np.nan, 1.0]]))


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_values_are_matched_in_sorted_order_which_is_cheapest(power: float) -> None:
    rng = np.random.default_rng(3)
    old, new = rng.standard_normal(6), rng.standard_normal(6)
    partners = match_values(old, new)
    cost = (np.abs(old[:, None] - new[None, :])) ** power
    cheapest = min(cost[np.arange(6), list(p)].sum() for p in permutations(range(6)))
    assert cost[np.arange(6), partners].sum() == pytest.approx(cheapest)
    # Hence values that are sorted at both checks never change places.
    assert match_values(np.sort(old), np.sort(new)).tolist() == list(range(6))


def test_values_are_matched_one_to_one() -> None:
    with pytest.raises(ValueError, match=r"one length, got \(2,\) and \(3,\)"):
        match_values(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_best_pairs_leave_out_what_is_not_alike(shape: tuple[int, int]) -> None:
    likeness = np.random.default_rng(shape).random(shape)
    pairs = best_pairs(likeness, least=0.0)
    rows, columns = linear_sum_assignment(-likeness)
    assert sorted(pairs) == list(zip(rows.tolist(), columns.tolist(), strict=True))
    strict = best_pairs(likeness, least=0.8)
    assert strict == [pair for pair in pairs if likeness[pair] >= 0.8]
    assert len(strict) < len(pairs)


def test_orders_are_compared_as_scipy_does_on_what_both_hold() -> None:
    rng = np.random.default_rng(5)
    old, new = rng.permutation(12).tolist(), rng.permutation(12).tolist()
    there = [new.index(name) for name in old]
    assert rank_correlation(old, new) == pytest.approx(spearmanr(range(12), there).statistic)
    tau = kendalltau(range(12), there).statistic
    assert crossings(old, new) == round((1 - tau) / 2 * 66)
    assert rank_correlation([*old, "gone"], ["fresh", *new]) == rank_correlation(old, new)
    assert crossings([*old, "gone"], ["fresh", *new]) == crossings(old, new)


def test_extremes_of_order() -> None:
    assert rank_correlation("abcd", "abcd") == 1.0
    assert rank_correlation("abcd", "dcba") == -1.0
    assert crossings("abcd", "dcba") == 6
    assert crossings("abcd", "bacd") == 1
    assert rank_correlation("ab", "bc") is None
    assert crossings("", "a") == 0
