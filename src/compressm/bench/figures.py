"""The figures as plots, in the look of the reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressm.bench.comparison import Comparison, Measured
from compressm.bench.grid import FORMS, Choice
from compressm.bench.outcome import Outcome
from compressm.bench.scaling import Point, Sweep
from compressm.report.figure_style import GRID, INK, MUTED, house_style, legend_above, new_figure, plain_power

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

OURS, PRODUCTS = "#0072B2", "#D55E00"
_OURS = (OURS, "#56B4E9", "#0B3C5D")
_OTHERS = ("#009E73", "#CC79A7", "#B8860B", "#3D4248", "#6B7280")
_DASHED = (0, (3, 3))
_OPERATIONS = {"lti_scan": (OURS, "o"), "selective_scan": ("#D55E00", "s")}


def write_figures(outcome: Outcome, folder: Path) -> list[Path]:
    """Draw what was measured into PNG files; returns their paths."""
    drawn: dict[str, Figure] = {}
    with house_style():
        if any(comparison.measured for comparison in outcome.comparisons):
            drawn["steps"] = steps_figure(outcome.comparisons)
        if outcome.sweeps:
            drawn["scaling-time"] = scaling_figure(outcome.sweeps, "milliseconds", lambda p: 1e3 * p.seconds)
        if any(point.peak_bytes is not None for sweep in outcome.sweeps for point in sweep.points):
            drawn["scaling-memory"] = scaling_figure(outcome.sweeps, "peak memory (MiB)", _mebibytes)
        if outcome.forms:
            drawn["forms"] = forms_figure(outcome.forms)
        paths = []
        for name, figure in drawn.items():
            path = folder / f"{name}.png"
            figure.savefig(path)
            paths.append(path)
    return paths


def steps_figure(comparisons: Sequence[Comparison]) -> Figure:
    """Time, and memory where it was measured, of every contender of every case."""
    cases = [comparison for comparison in comparisons if comparison.measured]
    memory = any(one.peak_bytes is not None for comparison in cases for one in comparison.measured)
    count = sum(len(comparison.measured) for comparison in cases) + 0.7 * len(cases)
    figure, panels = new_figure(0.19 * count + 1.2, columns=2 if memory else 1)
    colours = _colours(cases)
    _mark_products(panels[0], cases)
    _dots(panels[0], cases, colours, lambda one: 1e3 * one.seconds)
    panels[0].set_xlabel("milliseconds a step")
    if memory:
        _dots(panels[1], cases, colours, lambda one: (one.peak_bytes or 0) / 2**20 or None)
        panels[1].set_xlabel("peak memory (MiB)")
        panels[1].set_yticklabels([])
    legend_above(figure, panels[0])
    return figure


def _colours(cases: Sequence[Comparison]) -> dict[str, str]:
    """Blues for us, the others' colours for the others."""
    names = dict.fromkeys(one.name for comparison in cases for one in comparison.measured)
    ours = [name for name in names if name.startswith("compressm")]
    others = [name for name in names if name not in ours]
    found = {name: _OTHERS[place % len(_OTHERS)] for place, name in enumerate(others)}
    return {**found, **{name: _OURS[place % len(_OURS)] for place, name in enumerate(ours)}}


def _places(cases: Sequence[Comparison]) -> list[list[float]]:
    """Where each contender of each case stands on the vertical axis."""
    places, top = [], 0.0
    for comparison in cases:
        places.append([top + row for row in range(len(comparison.measured))])
        top += len(comparison.measured) + 0.7
    return places


def _dots(
    axes: Axes,
    cases: Sequence[Comparison],
    colours: dict[str, str],
    value: Callable[[Measured], float | None],
) -> None:
    labelled: set[str] = set()
    places = _places(cases)
    for comparison, rows in zip(cases, places, strict=True):
        for one, place in zip(comparison.measured, rows, strict=True):
            x = value(one)
            if x is None:
                continue
            label = None if one.name in labelled else one.name
            labelled.add(one.name)
            axes.plot(x, place, "o", markersize=6, color=colours[one.name], label=label, zorder=3)
            axes.annotate(
                _short(x),
                (x, place),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=INK,
            )
    axes.set_yticks(
        [sum(rows) / len(rows) for rows in places], [comparison.case.name for comparison in cases]
    )
    for rows in places[1:]:
        axes.axhline(rows[0] - 0.85, color=GRID, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(places[-1][-1] + 0.7, -0.7)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.2, high * 3)  # room for the last dot's number
    _label_powers(axes.xaxis)


def _mark_products(axes: Axes, cases: Sequence[Comparison]) -> None:
    label: str | None = "matrix products alone"
    for comparison, rows in zip(cases, _places(cases), strict=True):
        if comparison.product_seconds is not None:
            x = 1e3 * comparison.product_seconds
            axes.plot((x, x), (rows[0] - 0.5, rows[-1] + 0.5), color=PRODUCTS, linewidth=1.6, label=label)
            label = None


def _label_powers(axis: Axis) -> None:
    """Ticks at powers of ten, and at 2 and 5 times those where there are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(plain_power))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.3g}"


def _mebibytes(point: Point) -> float | None:
    return None if point.peak_bytes is None else point.peak_bytes / 2**20


def scaling_figure(sweeps: Sequence[Sweep], label: str, value: Callable[[Point], float | None]) -> Figure:
    """A panel for each axis, a line for each operation; dashes grow in proportion to the axis."""
    names = list(dict.fromkeys(sweep.axis for sweep in sweeps))
    rows = (len(names) + 1) // 2
    figure, panels = new_figure(2.3 * rows + 0.4, rows=rows, columns=min(2, len(names)))
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axis, axes in zip(names, panels, strict=False):
        for sweep in (one for one in sweeps if one.axis == axis):
            colour, marker = _OPERATIONS[sweep.operation]
            pairs = [(point.value, found) for point in sweep.points if (found := value(point))]
            if not pairs:
                continue
            x, y = zip(*pairs, strict=True)
            axes.plot(
                x, [y[-1] * size / x[-1] for size in x], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3))
            )
            axes.plot(x, y, marker, linestyle="-", color=colour, markersize=3.5, label=sweep.operation)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(_AXES.get(axis, axis))
        axes.set_ylabel(label)
        _label_powers(axes.yaxis)
    panels[0].plot([], [], color=MUTED, linewidth=0.9, linestyle=_DASHED, label="in proportion to the last")
    legend_above(figure, panels[0])
    return figure


_AXES = {"L": "length L", "N": "states N", "H": "channels", "batch": "sequences"}


def forms_figure(choices: Sequence[Choice]) -> Figure:
    """Time of the scan over the convolution's at every shape, in order, coloured by what was picked."""
    scan, convolution = FORMS
    both = sorted(
        (choice for choice in choices if convolution in choice.seconds),
        key=lambda choice: choice.seconds[scan] / choice.seconds[convolution],
    )
    figure, (axes,) = new_figure(2.8)
    for form, colour, marker in ((scan, OURS, "o"), (convolution, PRODUCTS, "s")):
        chosen = [
            (place, choice.seconds[scan] / choice.seconds[convolution])
            for place, choice in enumerate(both, start=1)
            if choice.picked == form
        ]
        if chosen:
            x, y = zip(*chosen, strict=True)
            axes.plot(x, y, marker, color=colour, markersize=4.5, linestyle="none", label=f"{form} picked")
    axes.axhline(1, color=MUTED, linewidth=0.9)
    axes.set_yscale("log")
    _label_powers(axes.yaxis)
    axes.set_ylabel("scan's time over convolution's")
    axes.set_xlabel("shapes, in order of the ratio")
    legend_above(figure, axes)
    return figure
