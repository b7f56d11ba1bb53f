"""Numbers as words and as columns whose decimals line up."""

import math
from collections.abc import Sequence

MISSING = "—"


def fixed(value: float | None, decimals: int) -> str:
    """Format with thousands separators and `decimals` digits; a dash for None, `NaN` for NaN."""
    if value is None:
        return MISSING
    return "NaN" if math.isnan(value) else f"{value:,.{decimals}f}"


def column(values: Sequence[float | None], *, significant: int = 2, most: int = 4) -> list[str]:
    """Format a column with one number of decimals, so that right-aligned points line up.

    The smallest value keeps `significant` digits. Where that would take more than `most` decimals,
    the whole column is in scientific notation.
    """
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value) and value != 0]
    decimals = max(0, significant - 1 - math.floor(math.log10(min(sizes)))) if sizes else 0
    if decimals <= most:
        return [fixed(value, decimals) for value in values]
    return [MISSING if value is None else f"{value:.{significant - 1}e}" for value in values]


def step_unit(seconds: Sequence[float | None]) -> tuple[float, str]:
    """Return the factor and the unit in which step times read best: milliseconds below a second."""
    known = [value for value in seconds if value is not None]
    return (1.0, "s") if known and max(known) >= 1 else (1e3, "ms")


def duration_unit(seconds: Sequence[float | None]) -> tuple[float, str]:
    """Return the factor and the unit for whole runs: seconds, minutes or hours."""
    longest = max((value for value in seconds if value is not None), default=0.0)
    if longest < 180:
        return 1.0, "s"
    return (1 / 60, "min") if longest < 3 * 3600 else (1 / 3600, "h")


def scaled(values: Sequence[float | None], factor: float) -> list[float | None]:
    """Multiply the values that are there."""
    return [None if value is None else value * factor for value in values]


def sizes(states: Sequence[int]) -> str:
    """Sizes of layers in words: `8`, `6 × 93` or `93, 112, 96`."""
    if not states:
        return MISSING
    if len(set(states)) == 1:
        return f"{states[0]:,}" if len(states) == 1 else f"{len(states)} × {states[0]:,}"
    return ", ".join(f"{size:,}" for size in states)


def times(ratio: float) -> str:
    """Format a ratio of times: `1.9×`, `12×`."""
    return f"{ratio:.1f}×" if ratio < 9.95 else f"{ratio:.0f}×"


def plural(count: int, noun: str) -> str:
    """Count things: `1 seed`, `3 seeds`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
