"""Figure 2: the Hankel singular values at every check, and where they were cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .figure_style import MUTED, house_style, new_figure, plain_power, ramp, thinned
from .groups import group_runs
from .headline import leading_group
from .metric import metric_of
from .runs import LayerCut, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LAYERS = 12
_MOST_POINTS = 120


def run_with_spectra(runs: Sequence[Run]) -> Run | None:
    """Return the run whose cuts a report shows: of the headline's group if it has one, else the first."""
    if not runs:
        return None
    leading = leading_group(group_runs(runs), metric_of(runs)).runs
    for run in (*leading, *runs):
        if any(layer.hankel_singular_values for cut in run.cuts for layer in cut.layers):
            return run
    return None


def spectra_figure(runs: Sequence[Run]) -> Figure:
    """Draw the spectra of the run that `run_with_spectra` picks, one panel per layer.

    One curve per attempt, divided by its first value. The horizontal axis counts states: in the real
    form two values make one state, so value i of 2N stands at i/2. The kept part is strong, the part
    that was cut is pale, and a dot marks the boundary. Of more than `MOST_LAYERS` layers the first
    are drawn.
    """
    run = run_with_spectra(runs)
    with house_style():
        if run is None:
            figure, (axes,) = new_figure(1.6)
            axes.text(
                0.5, 0.5, "no spectra were recorded", transform=axes.transAxes, ha="center", color=MUTED
            )
            axes.set_axis_off()
            return figure
        names = list(dict.fromkeys(layer.name for cut in run.cuts for layer in cut.layers))[:MOST_LAYERS]
        columns = 1 if len(names) == 1 else min(3, len(names))
        rows = math.ceil(len(names) / columns)
        height = 3.5 if len(names) == 1 else 2.1 * rows + 0.8
        figure, panels = new_figure(height, rows=rows, columns=columns, share="xy")
        floor = 1.0
        for name, axes in zip(names, panels, strict=False):
            floor = min(floor, _panel(axes, run, name, alone=len(names) == 1))
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        _axes(figure, panels[0], floor, base=2 if columns == 1 else 4)
        if len(names) == 1:
            panels[0].legend(loc="lower left", title="at step", alignment="left", title_fontsize=8.5)
        else:
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=min(5, max(1, len(handles))))
    return figure


def _panel(axes: Axes, run: Run, name: str, *, alone: bool) -> float:
    """Draw one layer and return the smallest value at any boundary."""
    lowest = 1.0
    attempts = [(cut, layer) for cut in run.cuts for layer in cut.layers if layer.name == name]
    for (cut, layer), colour in zip(attempts, ramp(len(attempts)), strict=True):
        states, values = normalised_spectrum(layer)
        label = f"{cut.step:,}: {layer.old:,} → {layer.new:,}" if alone else f"step {cut.step:,}"
        kept = min(kept_values(layer), len(states))
        axes.plot(
            *_thin(states[:kept], values[:kept]), color=colour, label=label, solid_capstyle="butt", zorder=3
        )
        if not kept or kept == len(states) or layer.new == layer.old:
            lowest = min([lowest, *(value for value in values[:kept] if value >= 1e-3)])
            continue
        axes.plot(*_thin(states[kept - 1 :], values[kept - 1 :]), color=colour, alpha=0.38, linewidth=1.1)
        axes.plot(states[kept - 1], values[kept - 1], "o", color=colour, markersize=4.5, zorder=4)
        axes.axvline(layer.new, color=colour, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        lowest = min(lowest, values[kept - 1])
    if not alone and attempts:
        axes.set_title(f"{name}: {attempts[0][1].old:,} → {attempts[-1][1].new:,}")
    return lowest


def normalised_spectrum(layer: LayerCut) -> tuple[list[float], list[float]]:
    """Return where each singular value stands, in states, and its ratio to the first.

    Values that are zero or not finite are left out: a logarithmic axis has no place for them.
    """
    sigma = layer.hankel_singular_values
    if not sigma or not sigma[0] > 0 or not layer.old:
        return [], []
    per_state = len(sigma) / layer.old
    points = [
        ((place + 1) / per_state, value / sigma[0])
        for place, value in enumerate(sigma)
        if value > 0 and math.isfinite(value)
    ]
    return [state for state, _ in points], [value for _, value in points]


def kept_values(layer: LayerCut) -> int:
    """Return how many singular values stayed: as recorded, else as many as the new states stand for."""
    if layer.kept_values is not None:
        return layer.kept_values
    return round(layer.new * len(layer.hankel_singular_values) / layer.old)


def _thin(states: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    picked = thinned(len(states), _MOST_POINTS, logarithmic=True)
    return [states[i] for i in picked], [values[i] for i in picked]


def _axes(figure: Figure, axes: Axes, floor: float, *, base: int) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    # The tail far below the boundary says nothing about the cut, and would flatten the rest.
    axes.set_ylim(max(1e-12, floor) / 30, 1.6)
    axes.xaxis.set_major_locator(LogLocator(base=base, numticks=12))
    axes.yaxis.set_major_locator(LogLocator(base=10, numticks=8))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(plain_power))
    figure.supxlabel("number of states", fontsize=9)
    figure.supylabel("Hankel singular value, σ / σ₁", fontsize=9)
