"""The picture on top of the results page: every comparison of sizes in one look."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from results_reading import Comparison, Scores

from compressm.report.figure_style import INK, house_style, legend_above, new_figure
from compressm.report.metric import Metric

# Arm, colour, marker; in the order of the legend.
_LOOKS = (("scratch", "#D55E00", "^"), ("published", "#009E73", "D"), ("default", "#0072B2", "o"))
_ROW = 0.21  # inches


def draw_overview(comparisons: Sequence[Comparison], file: Path) -> None:
    """Draw a row for each comparison and size at which the default was run beside full size; write a PNG.

    Scores are relative to the full size's mean, in percent, so that tasks with different measures share an
    axis; a loss is turned round: right is better everywhere.
    """
    rows = list(_rows(comparisons))
    with house_style():
        figure, (axes,) = new_figure(_ROW * len(rows) + 1.0)
        for arm, colour, marker in _LOOKS:
            at = [(100.0 * found[arm], place) for place, (_, found) in enumerate(rows) if arm in found]
            axes.plot(*zip(*at, strict=True), marker, color=colour, markersize=5.5, label=arm, zorder=3)
        for place, (_, found) in enumerate(rows):
            ends = [100.0 * value for value in found.values()]
            axes.hlines(place, min(ends), max(ends), color="#c3c8ce", linewidth=1.0, zorder=2)
        axes.axvline(0.0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1, label="full size")
        axes.set_yticks(range(len(rows)), [title for title, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("test score relative to full size (%), right is better")
        legend_above(figure, axes)
        figure.savefig(file)


def _rows(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, dict[str, float]]]:
    for comparison in comparisons:
        for family in comparison.families():
            full = comparison.scores(f"{family}full", None)
            for size in comparison.sizes(f"{family}default") if full is not None else ():
                found = {
                    arm: _relative(scores, full, comparison.metric)
                    for arm, _, _ in _LOOKS
                    if full is not None and (scores := comparison.scores(family + arm, size)) is not None
                }
                if len(found) > 1:
                    kind = f" ({family[:-1]})" if family else ""
                    yield f"{comparison.title.partition(',')[0]}{kind}, {size:g}", found


def _relative(scores: Scores, full: Scores, metric: Metric) -> float:
    change = scores.mean / full.mean - 1.0
    return change if metric.higher_is_better else -change
