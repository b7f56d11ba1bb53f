"""What a method costs and what it gives: test score against the time of the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .figure_style import house_style, legend_above, new_figure, strokes
from .groups import group_runs
from .metric import metric_of
from .numbers import duration_unit
from .runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def time_figure(runs: Sequence[Run]) -> Figure:
    """Draw the test score against wall-clock time end to end, a teacher's included.

    Every seed is a pale mark, every arm and size a strong one at the means, with its states beside it.
    """
    groups, metric = group_runs(runs), metric_of(runs)
    factor, unit = duration_unit([run.total_seconds for run in runs])
    with house_style():
        figure, (axes,) = new_figure(3.6)
        named: set[str] = set()
        for group, look in zip(groups, strokes(groups), strict=True):
            points = [
                (factor * run.total_seconds, score)
                for run in group.runs
                if run.total_seconds is not None and (score := metric.of(run.test)) is not None
            ]
            if not points:
                continue
            times, scores = zip(*points, strict=True)
            look_of: dict[str, Any] = {"color": look.colour, "marker": look.marker, "linestyle": "none"}
            axes.plot(times, scores, markersize=3.5, alpha=0.35, **look_of)
            at = (sum(times) / len(times), sum(scores) / len(scores))
            label = None if group.arm in named else group.arm
            named.add(group.arm)
            axes.plot(*at, markersize=6.5, label=label, **look_of)
            axes.annotate(
                group.states_label, at, xytext=(5, 4), textcoords="offset points", fontsize=7.5,
                color=look.colour,
            )  # fmt: skip
        axes.set_xlabel(f"whole run ({unit})")
        axes.set_ylabel(f"test {metric.name}" + (f" ({metric.unit})" if metric.unit else ""))
        axes.set_xlim(left=0)
        legend_above(figure, axes)
    return figure
