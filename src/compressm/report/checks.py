"""The Hankel singular values followed in training: a line of `hsv.jsonl`, and what is drawn of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compressm.compression.tracking.assignment import rank_correlation

Series = tuple[list[float], list[float]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of `hsv.jsonl`: the Hankel singular values of one layer, followed in training.

    `tracks` numbers the leading values: equal numbers at two checks mean the same state. `distance` bounds
    `moved`, the farthest move of a value since the check before. `kept` is the share of the sum of values
    that a cut at `since` would have kept, `best` the most that as many states can hold now, `bottom` the
    share beyond the `boundary`, the number of values that a cut would keep now.
    """

    step: int
    layer: str
    hankel_singular_values: tuple[float, ...]
    tracks: tuple[int, ...] = ()
    boundary: int | None = None
    bottom: float | None = None
    distance: float | None = None
    moved: float | None = None
    rank_correlation: float | None = None
    crossings: int | None = None
    since: int | None = None
    kept: float | None = None
    best: float | None = None


def track_series(checks: Sequence[Check]) -> dict[int, Series]:
    """Return for every track its steps and values."""
    found: dict[int, Series] = {}
    for check in checks:
        for track, value in zip(check.tracks, check.hankel_singular_values, strict=False):
            steps, values = found.setdefault(track, ([], []))
            steps.append(float(check.step))
            values.append(value)
    return found


def end_correlation(checks: Sequence[Check]) -> Series:
    """Return how alike the order of states at each check is to that of the last one (Spearman)."""
    return series_of(checks[:-1], lambda check: rank_correlation(check.tracks, checks[-1].tracks))


def crossed_share(check: Check) -> float | None:
    """Return the percentage of the pairs of followed states that changed places since the check before."""
    pairs = len(check.tracks) * (len(check.tracks) - 1) / 2
    return None if check.crossings is None or not pairs else 100 * check.crossings / pairs


def series_of(checks: Sequence[Check], value: Callable[[Check], float | None]) -> Series:
    """Return steps and values of one measure, where it was taken."""
    points = [
        (float(c.step), found) for c in checks if (found := value(c)) is not None and math.isfinite(found)
    ]
    return [step for step, _ in points], [found for _, found in points]
