"""Figure 1: what a state is worth, by method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .figure_style import MUTED, house_style, legend_above, new_figure, strokes
from .groups import Group, deviation, group_runs, mean_size
from .metric import Metric, metric_of
from .runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_figure(runs: Sequence[Run]) -> Figure:
    """Draw the test score against the final states per layer, one panel per task.

    Every seed is a dot; the mean of a group is a bar, one standard deviation to each side a thin
    upright line, and the means of one arm are joined. Runs without a test result are not drawn.
    """
    groups = group_runs(runs)
    metric = metric_of(runs)
    tasks = list(dict.fromkeys(group.task for group in groups)) or [""]
    with house_style():
        figure, panels = new_figure(3.1 * len(tasks) + 0.4, rows=len(tasks))
        for task, axes in zip(tasks, panels, strict=True):
            _panel(axes, [group for group in groups if group.task == task], metric)
            if len(tasks) > 1:
                axes.set_title(task)
        legend_above(figure, panels[0])
    return figure


def _panel(axes: Axes, groups: Sequence[Group], metric: Metric) -> None:
    axes.set_xlabel("final states per layer")
    axes.set_ylabel(f"test {metric.name}" + (f" ({metric.unit})" if metric.unit else ""))
    joined: dict[str, list[tuple[float, float]]] = {}
    looks = list(zip(groups, strokes(groups), strict=True))
    for group, look in looks:
        points = [
            (size, score)
            for run in group.runs
            if (size := mean_size(run.final_states)) is not None
            and (score := metric.of(run.test)) is not None
        ]
        if not points:
            continue
        sizes, scores = zip(*points, strict=True)
        centre = (sum(sizes) / len(sizes), sum(scores) / len(scores))
        label = None if group.arm in joined else group.arm
        joined.setdefault(group.arm, []).append(centre)
        axes.plot(
            sizes,
            scores,
            look.marker,
            color=look.colour,
            markersize=5,
            alpha=0.6,
            markeredgewidth=0,
            zorder=3,
        )
        axes.plot(
            *([value] for value in centre), "_", color=look.colour, markersize=17, markeredgewidth=2.2,
            zorder=4, gid="mean",
        )  # fmt: skip
        spread = deviation(scores)
        if spread is not None:
            ends = (centre[1] - spread, centre[1] + spread)
            axes.vlines(centre[0], *ends, color=look.colour, linewidth=1.0, zorder=3)
        if label is not None:
            axes.plot([], [], look.marker + "-", color=look.colour, markersize=5, linewidth=1.1, label=label)
        if group.arm == "full":
            axes.axhline(centre[1], color=look.colour, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    for arm, centres in joined.items():
        if len(centres) > 1:
            colour = next(look.colour for group, look in looks if group.arm == arm)
            axes.plot(*zip(*sorted(centres), strict=True), "-", color=colour, linewidth=1.1, zorder=2)
    _size_axis(axes, [size for centres in joined.values() for size, _ in centres])
    if not joined:
        axes.text(0.5, 0.5, "no test result yet", transform=axes.transAxes, ha="center", color=MUTED)


def _size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """Label the sizes that occur, on a logarithmic axis if they span more than a factor of four."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if not sizes:
        return
    low, high = min(sizes), max(sizes)
    if low > 0 and high / low > 4:
        axes.set_xscale("log", base=2)
        axes.set_xlim(low / 1.5, high * 1.5)
    else:
        margin = max(1.0, 0.15 * (high - low), 0.05 * high)
        axes.set_xlim(low - margin, high + margin)
    ticks: list[float] = []
    for size in sorted(set(sizes)):
        # Neighbours that would print over each other share the label of the first.
        if not ticks or size > 1.12 * ticks[-1]:
            ticks.append(size)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.4g}"))
