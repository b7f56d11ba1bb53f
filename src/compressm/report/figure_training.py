"""Figures 3 and 4: sizes and speed, loss and score over the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .figure_style import MUTED, Stroke, house_style, legend_above, new_figure, strokes, thinned
from .groups import Group, group_runs, mean_size
from .metric import Metric, metric_of
from .numbers import step_unit
from .runs import Measurement, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 200
_MOST_CUTS = 12

Series = tuple[list[float], list[float]]


def speed_figure(runs: Sequence[Run]) -> Figure:
    """Draw the states per layer (above) and the time of a step (below) over the training.

    One colour per arm. Times of single seeds are pale and their mean strong; dotted lines are the
    measured floors, a step without its recurrences.
    """
    groups = group_runs(runs)
    factor, unit = step_unit([line.step_seconds for run in runs for line in run.train])
    with house_style():
        figure, (above, below) = new_figure(4.3, rows=2, share="x")
        for group, look in zip(groups, strokes(groups), strict=True):
            for number, run in enumerate(group.runs):
                label = _label(group) if number == 0 else None
                above.plot(*size_series(run), drawstyle="steps-post", label=label, **look.line)
                _floor(below, run, factor, look)
            times = [_series(run.train, lambda line: _times(line.step_seconds, factor)) for run in group.runs]
            _bundle(below, times, look, None)
        _size_ticks(above, runs)
        above.set_ylabel("states per layer")
        below.set_ylabel(f"time of a step ({unit})")
        below.set_ylim(bottom=0)
        _step_axis(below, runs)
        legend_above(figure, above)
    return figure


def training_figure(runs: Sequence[Run]) -> Figure:
    """Draw training loss (above) and validation score (below) over the training.

    Every seed is a pale line, the mean over the seeds a strong one; test results are the
    open marks at the end, and thin vertical lines the cuts. Without validation
    lines the training score is drawn.
    """
    groups = group_runs(runs)
    metric = metric_of(runs)
    validated = any(metric.of(line) is not None for run in runs for line in run.validation)
    with house_style():
        figure, (above, below) = new_figure(4.6, rows=2, share="x")
        for axes in (above, below):
            for step in _cut_steps(runs):
                axes.axvline(step, color=MUTED, linewidth=0.7, alpha=0.7, zorder=1, gid="cut")
        for group, look in zip(groups, strokes(groups), strict=True):
            losses = [_series(run.train, lambda line: line.loss) for run in group.runs]
            _bundle(above, losses, look, _label(group))
            lines = [run.validation if validated else run.train for run in group.runs]
            _bundle(below, [_series(found, metric.of) for found in lines], look, None)
            _test_marks(below, group, metric, look)
        above.set_ylabel("training loss")
        unit = f" ({metric.unit})" if metric.unit else ""
        below.set_ylabel(f"{'validation' if validated else 'training'} {metric.name}{unit}")
        _step_axis(below, runs)
        legend_above(figure, above)
    return figure


def size_series(run: Run) -> Series:
    """Return steps and states per layer, changing exactly at the cuts."""
    start = mean_size(run.initial_states)
    if start is None:
        return [], []
    steps, sizes = [0.0], [start]
    for cut in run.effective_cuts:
        steps.append(cut.step)
        sizes.append(mean_size([layer.new for layer in cut.layers]) or 0.0)
    last = max((line.step for line in (*run.train, *run.validation)), default=0)
    final = mean_size(run.final_states)
    return [*steps, max(last, steps[-1])], [*sizes, sizes[-1] if final is None else final]


def mean_series(found: Sequence[Series]) -> Series:
    """Return the mean over the series at the steps that all of them have."""
    by_step = [dict(zip(*series, strict=True)) for series in found]
    shared = sorted(set.intersection(*(set(series) for series in by_step))) if by_step else []
    return shared, [sum(series[step] for series in by_step) / len(by_step) for step in shared]


def _series(lines: Sequence[Measurement], value: Callable[[Measurement], float | None]) -> Series:
    points = [(float(line.step), found) for line in lines if (found := value(line)) is not None]
    return [step for step, _ in points], [found for _, found in points]


def _thin(series: Series) -> Series:
    steps, values = series
    picked = thinned(len(steps), _MOST_POINTS)
    return [steps[i] for i in picked], [values[i] for i in picked]


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _label(group: Group) -> str:
    return f"{group.label}, {group.states_label} states"


def _bundle(axes: Axes, found: Sequence[Series], look: Stroke, label: str | None) -> None:
    """Draw the seeds and their mean."""
    if len(found) > 1:
        for series in found:
            axes.plot(*_thin(series), color=look.colour, linewidth=0.8, alpha=0.25, zorder=2)
    axes.plot(*_thin(mean_series(found)), label=label, zorder=3, **look.line)


def _floor(axes: Axes, run: Run, factor: float, look: Stroke) -> None:
    """Draw the floor of the final size from the last cut to the end."""
    if run.floor_final is not None and run.train:
        ends = [run.effective_cuts[-1].step if run.effective_cuts else 0, run.train[-1].step]
        axes.plot(ends, [factor * run.floor_final] * 2, ":", color=look.colour, linewidth=1.1, gid="floor")


def _test_marks(axes: Axes, group: Group, metric: Metric, look: Stroke) -> None:
    tests = [(run.test.step, metric.of(run.test)) for run in group.runs if run.test is not None]
    scores = [(step, score) for step, score in tests if score is not None]
    if scores:
        axes.plot(
            *zip(*scores, strict=True), look.marker, color=look.colour, markerfacecolor="white",
            markersize=5, markeredgewidth=1.2, linestyle="none", zorder=4, clip_on=False, gid="test",
        )  # fmt: skip


def _cut_steps(runs: Sequence[Run]) -> list[int]:
    """Steps at which a run became smaller; of very many, those of the first run that was cut."""
    steps = sorted({cut.step for run in runs for cut in run.effective_cuts})
    if len(steps) > _MOST_CUTS:
        first = next(run for run in runs if run.effective_cuts)
        steps = [cut.step for cut in first.effective_cuts]
    return steps


def _step_axis(axes: Axes, runs: Sequence[Run]) -> None:
    from matplotlib.ticker import FuncFormatter

    last = max((line.step for run in runs for line in (*run.train, *run.validation)), default=1)
    axes.set_xlim(0, max(1, last))
    axes.set_xlabel("training step")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


def _size_ticks(axes: Axes, runs: Sequence[Run]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    sizes = [size for run in runs for size in size_series(run)[1] if size > 0]
    if sizes and max(sizes) / min(sizes) > 4:
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_locator(LogLocator(base=2, numticks=9))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.4g}"))
