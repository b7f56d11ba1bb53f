"""The figures as tables, for a terminal."""

from collections.abc import Sequence

from compressm.bench.comparison import FLOOR, Comparison
from compressm.bench.grid import Choice
from compressm.bench.scaling import Sweep
from compressm.report.numbers import MISSING
from compressm.report.table import Column, Row, Table

MEBIBYTE = 2**20


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """A row for every contender of every case, and one for the matrix products alone."""
    columns = (
        Column("case", align="left", key=True),
        Column("", align="left", key=True),
        Column("step", "ms"),
        Column("over ours"),
        Column("tokens/s"),
        Column("peak", "MiB"),
        Column("products", "%", group="floor"),
        Column("bytes", "%", group="floor"),
        Column("compile", "s"),
    )
    rows: list[Row] = []
    notes: list[str] = []
    for comparison in comparisons:
        name = comparison.case.name
        rows += _comparison_rows(comparison)
        notes += [f"{name}: {who}: {why}" for who, why in comparison.absent.items()]
    if any(comparison.product_seconds is not None for comparison in comparisons):
        notes.append(
            f"products: share of a step that its {FLOOR} take (torch.mm, same threads); above 100 where "
            "a form does without them"
        )
    notes.append(
        "bytes: share of a step that moving its operands and results once takes, at the speed of a copy"
    )
    notes.append("compile: before the first step; kernels of an earlier process are loaded from disk")
    return Table(columns, tuple(rows), tuple(notes)).without_empty_columns(MISSING)


def _comparison_rows(comparison: Comparison) -> list[Row]:
    rows = []
    for place, one in enumerate(comparison.measured):
        cells = (
            comparison.case.name if place == 0 else "",
            one.name,
            _milliseconds(one.seconds),
            f"{one.ratio:.2f}",
            f"{one.tokens_per_second:,.0f}",
            MISSING if one.peak_bytes is None else f"{one.peak_bytes / MEBIBYTE:,.0f}",
            MISSING if one.of_products is None else f"{100 * one.of_products:.1f}",
            f"{100 * one.of_bytes:.1f}",
            f"{one.compile_seconds:.1f}",
        )
        rows.append(Row(cells, strong=place == 0))
    if comparison.product_seconds is not None:
        ratio = f"{comparison.product_seconds / comparison.measured[0].seconds:.2f}"
        products = f"products, {comparison.gigaflop:.1f} GFLOP"
        time = _milliseconds(comparison.product_seconds)
        rows.append(Row(("", products, time, ratio, *[MISSING] * 5)))
    return rows


def sweep_table(sweep: Sweep) -> Table:
    """Time and memory along an axis, and the ratio to the straight line."""
    columns = (
        Column(sweep.axis, key=True),
        Column("step", "ms"),
        Column("of the straight line"),
        Column("peak", "MiB"),
    )
    rows = [
        Row(
            (
                f"{point.value:,}",
                _milliseconds(point.seconds),
                f"{ratio:.2f}",
                MISSING if point.peak_bytes is None else f"{point.peak_bytes / MEBIBYTE:,.1f}",
            )
        )
        for point, ratio in zip(sweep.points, sweep.over_line(), strict=True)
    ]
    return Table(columns, tuple(rows)).without_empty_columns(MISSING)


def choice_table(choices: Sequence[Choice]) -> Table:
    """Every alternative, the library's choice, and its time over the best one's."""
    names = list(dict.fromkeys(name for choice in choices for name in choice.seconds))
    columns = (
        Column("shape", align="left", key=True),
        *(Column(name, "ms") for name in names),
        Column("picked", align="left"),
        Column("over the best"),
    )
    rows = [
        Row(
            (
                choice.shape,
                *(
                    _milliseconds(choice.seconds[name]) if name in choice.seconds else MISSING
                    for name in names
                ),
                choice.picked,
                f"{choice.over_best:.2f}",
            )
        )
        for choice in choices
    ]
    worst = max(choices, key=lambda choice: choice.over_best)
    note = f"worst choice: {worst.over_best:.2f} times the best ({worst.shape})"
    return Table(columns, tuple(rows), (note,))


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
