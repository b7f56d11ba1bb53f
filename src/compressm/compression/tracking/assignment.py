"""Who is who in two lists: linear assignment, and how much an order changed.

On values alone the question is settled before it is asked: for any convex cost ``h(a_i - b_j)`` the cheapest
pairing of two lists of numbers is the one of their sorted orders, so Hankel singular values that are followed
by their values never change their relative order, whatever happens in the layer. :func:`match_values` is
that pairing. An order that *can* change takes states that are told apart by something else, as
:mod:`compressm.compression.tracking.likeness` does, and then :func:`linear_assignment` is needed.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def match_values(old: Floats, new: Floats) -> Integers:
    """The cheapest pairing of two equally long lists of numbers, for every convex cost, in O(n log n).

    Args:
        old: Numbers, ``(n,)``, in any order.
        new: Numbers, ``(n,)``, in any order.

    Returns:
        For each entry of ``old`` the index of its partner in ``new``.

    Raises:
        ValueError: If the lengths differ.
    """
    if old.shape != new.shape or old.ndim != 1:
        raise ValueError(f"match_values: needs two vectors of one length, got {old.shape} and {new.shape}")
    partners = np.empty(len(old), dtype=np.int64)
    partners[np.argsort(old, kind="stable")] = np.argsort(new, kind="stable")
    return partners


def linear_assignment(cost: Floats) -> Integers:
    """For each row a column of its own, at the smallest total cost: shortest augmenting paths.

    The rows are placed one after another; a row that wants a column already taken starts a search for the
    cheapest chain of exchanges, by Dijkstra's rule on costs reduced by dual prices (Jonker and Volgenant
    1987). O(n^3) at worst, O(n^2) where the rows hardly compete, as between two near checks of one layer.

    Args:
        cost: ``(n, m)`` with ``n <= m``, finite.

    Returns:
        The column of every row, ``(n,)``.

    Raises:
        ValueError: If there are more rows than columns, or a cost is not finite.
    """
    if cost.ndim != 2 or cost.shape[0] > cost.shape[1]:
        raise ValueError(f"linear_assignment: needs at most as many rows as columns, got shape {cost.shape}")
    if not np.isfinite(cost).all():
        row, column = np.argwhere(~np.isfinite(cost))[0]
        raise ValueError(f"linear_assignment: cost[{row}, {column}] is {cost[row, column]}")
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    column_of = np.full(rows, -1, dtype=np.int64)
    row_of = np.full(columns, -1, dtype=np.int64)
    for row in range(rows):
        distance, before, reached, end = _search(cost, row, row_price, column_price, row_of)
        # Prices move by what the search saved, so that all reduced costs stay non-negative.
        inner = reached[reached != end]
        row_price[row] += distance[end]
        row_price[row_of[inner]] += distance[end] - distance[inner]
        column_price[inner] -= distance[end] - distance[inner]
        column = end
        while column >= 0:
            owner = before[column]
            row_of[column] = owner
            column_of[owner], column = column, column_of[owner]
    return column_of


def best_pairs(likeness: Floats, *, least: float) -> list[tuple[int, int]]:
    """The pairing of rows and columns with the largest total likeness, without pairs below ``least``.

    Args:
        likeness: ``(n, m)``, any shape; the longer side keeps some entries unpaired.
        least: Likeness from which on two are taken for the same.

    Returns:
        Row and column of every pair.
    """
    if likeness.shape[0] <= likeness.shape[1]:
        pairs = [(row, column) for row, column in enumerate(linear_assignment(-likeness).tolist())]
    else:
        pairs = [(row, column) for column, row in enumerate(linear_assignment(-likeness.T).tolist())]
    return [(row, column) for row, column in pairs if likeness[row, column] >= least]


def _search(
    cost: Floats, start: int, row_price: Floats, column_price: Floats, row_of: Integers
) -> tuple[Floats, Integers, Integers, int]:
    """Reduced distances from row ``start`` up to the nearest free column, and the way there.

    Returns:
        Distance of every column, the row before it, the columns that were settled, and the free one.
    """
    columns = cost.shape[1]
    distance = np.full(columns, np.inf)
    before = np.full(columns, -1, dtype=np.int64)
    open_ = np.ones(columns, dtype=bool)
    settled: list[int] = []
    row, travelled = start, 0.0
    while True:
        onward = travelled + cost[row] - row_price[row] - column_price
        shorter = open_ & (onward < distance)
        distance[shorter], before[shorter] = onward[shorter], row
        column = int(np.where(open_, distance, np.inf).argmin())
        travelled = float(distance[column])
        open_[column] = False
        settled.append(column)
        if row_of[column] < 0:
            return distance, before, np.array(settled, dtype=np.int64), column
        row = int(row_of[column])


def shared_order(old: Sequence[Hashable], new: Sequence[Hashable]) -> Integers:
    """Places in ``new`` of what both lists hold, in the order of ``old``, counted among the shared ones."""
    place = {name: index for index, name in enumerate(new)}
    places = np.array([place[name] for name in old if name in place], dtype=np.int64)
    order = np.empty(len(places), dtype=np.int64)
    order[np.argsort(places)] = np.arange(len(places))
    return order


def rank_correlation(old: Sequence[Hashable], new: Sequence[Hashable]) -> float | None:
    """Spearman's rank correlation of two orders of the same things; what only one list holds is left out.

    Returns:
        1 for the same order, -1 for the reverse; None for fewer than two shared things.
    """
    order = shared_order(old, new)
    n = len(order)
    if n < 2:
        return None
    return 1.0 - 6.0 * float(((order - np.arange(n)) ** 2).sum()) / (n * (n * n - 1))


def crossings(old: Sequence[Hashable], new: Sequence[Hashable]) -> int:
    """Number of pairs, of things that both lists hold, whose order differs between them."""
    order = shared_order(old, new)
    return int(np.triu(order[:, None] > order[None, :]).sum())
