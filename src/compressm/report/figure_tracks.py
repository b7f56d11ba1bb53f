"""Figure 5: states followed through training, and how their order settles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .checks import Check, Series, crossed_share, end_correlation, series_of, track_series
from .figure_style import MUTED, house_style, new_figure, plain_power, ramp, thinned
from .figure_training import mean_series
from .groups import group_runs
from .headline import leading_group
from .metric import metric_of
from .runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_TRACKS = 48
_MOST_SPECTRA = 8
_SMALLEST = 1e-4  # of the largest value; what lies below is not drawn
_OWN, _OTHER = "#0072B2", "#D55E00"


def run_with_tracks(runs: Sequence[Run]) -> Run | None:
    """Return the run whose tracking a report shows: of the headline's group if it has one, else the first."""
    if not runs:
        return None
    leading = leading_group(group_runs(runs), metric_of(runs)).runs
    return next((run for run in (*leading, *runs) if run.checks), None)


def tracks_figure(runs: Sequence[Run]) -> Figure:
    """Draw the tracking of the run that `run_with_tracks` picks.

    Above, of the first layer, the values of single states over the steps and the spectra at some checks.
    Below, of all layers, rank correlation, crossings, what an earlier cut would have kept, and the moves of
    the values with their bound; thin vertical lines are the cuts.
    """
    run = run_with_tracks(runs)
    with house_style():
        if run is None:
            figure, (axes,) = new_figure(1.6)
            axes.text(0.5, 0.5, "no states were followed", transform=axes.transAxes, ha="center", color=MUTED)
            axes.set_axis_off()
            return figure
        layers: dict[str, list[Check]] = {}
        for check in run.checks:
            layers.setdefault(check.layer, []).append(check)
        figure, panels = new_figure(7.2, rows=3, columns=2)
        first, checks = next(iter(layers.items()))
        _tracks(panels[0], checks)
        _spectra(panels[1], checks)
        if len(layers) > 1:
            panels[0].set_title(first)
        _lower(panels[2:], list(layers.values()))
        for axes in (panels[0], *panels[2:]):
            _step_axis(axes, run)
    return figure


def _tracks(axes: Axes, checks: Sequence[Check]) -> None:
    last = checks[-1]
    kept = set(last.tracks[: last.boundary])
    top = max(check.hankel_singular_values[0] for check in checks if check.hankel_singular_values)
    series = {
        track: (steps, values)
        for track, (steps, values) in track_series(checks).items()
        if len(steps) >= max(2, len(checks) // 4) and max(values) > _SMALLEST * top
    }
    # By the largest value, so that thinning takes states of every size.
    order = sorted(series, key=lambda track: -max(series[track][1]))
    for place in thinned(len(order), _MOST_TRACKS):
        track = order[place]
        strong = track in kept
        axes.plot(
            *series[track],
            color=_OWN if strong else MUTED,
            linewidth=1.0 if strong else 0.7,
            alpha=0.9 if strong else 0.35,
            zorder=3 if strong else 2,
            gid="kept" if strong else "other",
        )
    axes.set_ylabel("σ of single states")
    _logarithmic(axes, top, min((min(values) for _, values in series.values()), default=0.0))


def _spectra(axes: Axes, checks: Sequence[Check]) -> None:
    picked = [checks[i] for i in thinned(len(checks), _MOST_SPECTRA)]
    for check, colour in zip(picked, ramp(len(picked)), strict=True):
        values = [value for value in check.hankel_singular_values if value > 0]
        places = thinned(len(values), 120, logarithmic=True)
        axes.plot(
            [i + 1 for i in places], [values[i] for i in places], color=colour, label=f"step {check.step:,}"
        )
        if check.boundary is not None and check.boundary <= len(values):
            axes.plot(check.boundary, values[check.boundary - 1], "o", color=colour, markersize=4, zorder=4)
    axes.set_ylabel("σ")
    axes.set_xlabel("place in the spectrum")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(plain_power)
    shown = [value for check in picked for value in check.hankel_singular_values]
    _logarithmic(axes, max(shown), min(shown))
    handles, labels = axes.get_legend_handles_labels()
    ends = (0, len(handles) - 1) if len(handles) > 1 else (0,)
    axes.legend([handles[i] for i in ends], [labels[i] for i in ends], loc="lower left")


def _lower(panels: Sequence[Axes], layers: Sequence[Sequence[Check]]) -> None:
    order, crossed, kept, moved = panels
    _bundle(order, [series_of(c, lambda check: check.rank_correlation) for c in layers], _OWN, "check before")
    _bundle(order, [end_correlation(checks) for checks in layers], _OTHER, "last check")
    order.set_ylabel("rank correlation with")
    order.set_ylim(top=1.003)
    _bundle(crossed, [series_of(checks, crossed_share) for checks in layers], _OWN, None)
    crossed.set_ylabel("pairs that changed places (%)")
    crossed.set_ylim(bottom=0)
    _bundle(kept, [series_of(c, lambda check: check.best) for c in layers], MUTED, "best of that size")
    _bundle(kept, [series_of(c, lambda check: check.kept) for c in layers], _OWN, "an earlier cut's")
    kept.set_ylabel("share of energy kept")
    _bundle(moved, [series_of(c, lambda check: check.distance) for c in layers], MUTED, "bound")
    _bundle(moved, [series_of(c, lambda check: check.moved) for c in layers], _OWN, "farthest move")
    moved.set_ylabel("move of σ between checks")
    if any(check.moved for checks in layers for check in checks):
        moved.set_yscale("log")
        moved.yaxis.set_major_formatter(plain_power)
    for axes in (order, kept, moved):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")


def _bundle(axes: Axes, found: Sequence[Series], colour: str, label: str | None) -> None:
    """Draw all layers pale and their mean strong."""
    found = [series for series in found if series[0]]
    if not found:
        return
    if len(found) > 1:
        for series in found:
            axes.plot(*series, color=colour, linewidth=0.8, alpha=0.25, zorder=2)
    axes.plot(*mean_series(found), color=colour, label=label, zorder=3)


def _step_axis(axes: Axes, run: Run) -> None:
    from matplotlib.ticker import FuncFormatter

    last = max(check.step for check in run.checks)
    for cut in run.effective_cuts:
        axes.axvline(cut.step, color=MUTED, linewidth=0.7, alpha=0.7, zorder=1, gid="cut")
    axes.set_xlim(0, max(1, last))
    axes.set_xlabel("training step")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


def _logarithmic(axes: Axes, top: float, bottom: float) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.set_ylim(max(_SMALLEST * top, bottom / 1.6), 1.6 * top)
    axes.yaxis.set_major_locator(LogLocator(base=10, numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(plain_power)
