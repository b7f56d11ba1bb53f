"""The figures of ranking.py: three measures of settling for each layer, and the states of one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ranking_table import EARLY

from compressm.report.figure_style import (
    MUTED,
    house_style,
    legend_above,
    new_figure,
    plain_power,
    ramp,
    thinned,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Result = dict[str, Any]

_STATES, _MODES = "#0072B2", "#D55E00"
_MOST_TRACKS = 60
_SMALLEST = 1e-4  # of the largest value; what lies below is not drawn


def settling_figure(results: list[Result]) -> Figure:
    """Draw, a row for each layer, the order against its end and what a cut would have lost by the end.

    Left: Spearman's correlations; right: shares of the final sum of values that a cut at each moment loses,
    and the least that any cut to that size loses. Thin lines are seeds, strong ones their mean.
    """
    layers = list(results[0]["layers"])
    sizes = results[0]["sizes"]
    with house_style():
        figure, panels = new_figure(0.5 + 2.4 * len(layers), rows=len(layers), columns=2, share="x")
        for row, layer in enumerate(layers):
            order, lost = panels[2 * row : 2 * row + 2]
            _lines(order, results, layer, lambda e: e["tracks"], _STATES, "states followed")
            _lines(order, results, layer, lambda e: e["modes"], _MODES, "modes")
            order.set_ylim(top=1.02)
            order.set_ylabel("rank correlation with the end")
            for size, colour in zip(sizes, reversed(ramp(len(sizes))), strict=True):
                _lines(lost, results, layer, _lost(size), colour, f"cut to {size}")
                least = statistics.mean(
                    100 * (1 - r["layers"][layer]["against_end"][-1]["sizes"][str(size)]["best"])
                    for r in results
                )
                lost.axhline(least, color=colour, linewidth=0.9, linestyle=(0, (2, 1.2)), zorder=1)
            lost.set_ylim(bottom=0)
            lost.set_ylabel("lost by the end, % of Σσ")
            for axes in (order, lost):
                axes.axvline(100 * EARLY, color=MUTED, linewidth=0.7, zorder=1)
                axes.set_xlim(0, 100)
                if len(layers) > 1:
                    axes.set_title(layer)
        for axes in panels[-2:]:
            axes.set_xlabel("training done, %")
        for axes in panels[:2]:
            axes.legend(loc="best")
    return figure


def tracks_figure(result: Result) -> Figure:
    """Draw the values of single states over the steps, a panel for each layer.

    States coloured by their place at 10 % of training: the first that a cut to the middle size keeps, the
    others, and those that were not there then.
    """
    settings = result["settings"]
    size = sorted(result["sizes"])[len(result["sizes"]) // 2]
    early = round(EARLY * settings["steps"])
    with house_style():
        layers = list(result["layers"])
        figure, panels = new_figure(0.6 + 2.5 * len(layers), rows=len(layers), share="x")
        for axes, layer in zip(panels, layers, strict=True):
            _tracks(axes, result["layers"][layer]["checks"], early, 2 * size, settings["steps"])
            axes.axvline(early, color=MUTED, linewidth=0.7, zorder=1)
            axes.set_ylabel("σ of single states")
            if len(layers) > 1:
                axes.set_title(layer)
        for colour, label in (
            (_STATES, f"first {2 * size} at 10 %"),
            (_MODES, "beyond them"),
            (MUTED, "not there at 10 %"),
        ):
            panels[0].plot([], [], color=colour, label=label)
        legend_above(figure, panels[0])
        panels[-1].set_xlabel("training step")
    return figure


def _lines(
    axes: Axes,
    results: list[Result],
    layer: str,
    value: Callable[[dict[str, Any]], float | None],
    colour: str,
    label: str,
) -> None:
    """Draw a thin line for each seed and a strong one for their mean."""
    series: dict[float, list[float]] = {}
    for result in results:
        steps, entries = result["settings"]["steps"], result["layers"][layer]["against_end"]
        points = [(100 * e["step"] / steps, found) for e in entries if (found := value(e)) is not None]
        for share, found in points:
            series.setdefault(share, []).append(found)
        if len(results) > 1:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.7, alpha=0.35)
    shares = sorted(series)
    axes.plot(shares, [statistics.mean(series[s]) for s in shares], color=colour, label=label, zorder=3)


def _lost(size: int) -> Callable[[dict[str, Any]], float]:
    return lambda entry: 100 * (1 - entry["sizes"][str(size)]["kept"])


def _tracks(axes: Axes, checks: list[dict[str, Any]], early: int, kept: int, steps: int) -> None:
    from matplotlib.ticker import NullLocator

    series: dict[int, tuple[list[int], list[float]]] = {}
    at_early: list[int] = []
    for check in checks:
        if check["step"] == early:
            at_early = check["tracks"]
        for track, value in zip(check["tracks"], check["values"], strict=False):
            of_track = series.setdefault(track, ([], []))
            of_track[0].append(check["step"])
            of_track[1].append(value)
    top = max(check["values"][0] for check in checks)
    shown = [t for t, (s, v) in series.items() if len(s) >= 3 and max(v) > _SMALLEST * top]
    # By the largest value, so that thinning takes states of every size.
    shown.sort(key=lambda track: -max(series[track][1]))
    first, others = set(at_early[:kept]), set(at_early[kept:])
    for place in thinned(len(shown), _MOST_TRACKS):
        track = shown[place]
        colour = _STATES if track in first else _MODES if track in others else MUTED
        axes.plot(*series[track], color=colour, linewidth=0.9, alpha=0.3 if colour == MUTED else 0.75)
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    lowest = min(min(series[track][1]) for track in shown)
    axes.set_ylim(max(_SMALLEST * top, lowest / 1.6), 1.6 * top)
    axes.yaxis.set_major_formatter(plain_power)
    axes.set_xlim(0, steps)
