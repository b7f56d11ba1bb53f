"""The set of figures of a report, as files and as SVG inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .figure_accuracy import accuracy_figure
from .figure_spectra import run_with_spectra, spectra_figure
from .figure_style import house_style
from .figure_tracks import run_with_tracks, tracks_figure
from .figure_training import speed_figure, training_figure
from .groups import group_runs
from .runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def figures_of(runs: Sequence[Run]) -> dict[str, Figure]:
    """Draw the figures for which the runs have data, by name.

    They are accuracy, spectra, speed, tracks and training. Accuracy
    against size takes two settings with a test result: one alone is no comparison.
    """
    drawn: dict[str, Callable[[Sequence[Run]], Figure]] = {}
    if sum(any(run.test is not None for run in group.runs) for group in group_runs(runs)) > 1:
        drawn["accuracy"] = accuracy_figure
    if run_with_spectra(runs) is not None:
        drawn["spectra"] = spectra_figure
    if any(run.train for run in runs):
        drawn["speed"] = speed_figure
    if run_with_tracks(runs) is not None:
        drawn["tracks"] = tracks_figure
    if any(run.train for run in runs):
        drawn["training"] = training_figure
    return {name: draw(runs) for name, draw in drawn.items()}


def save_figures(runs: Sequence[Run], folder: str | Path) -> list[Path]:
    """Write every figure of the runs as PNG and SVG and return the files; the folder is made if needed."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures_of(runs).items():
        for ending in ("png", "svg"):
            path = target / f"{name}.{ending}"
            with house_style():
                figure.savefig(path, metadata=_NO_METADATA if ending == "svg" else None)
            written.append(path)
    return written


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an `<svg>` element for a page: no fixed size, ids unique to `name`.

    Args:
        figure: what to render.
        name: prefix of all ids, so that several figures can share a page.
        description: text read out in place of the picture.
    """
    import html

    stream = io.StringIO()
    with house_style():
        figure.savefig(stream, format="svg", metadata=_NO_METADATA)
    text = stream.getvalue()
    text = text[text.index("<svg") :].rstrip()
    # The stylesheet would apply to the whole page; the page has the same rule for its figures.
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, count=1, flags=re.DOTALL)
    # matplotlib names every part; only what is referred to needs a name on a page.
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', text))
    text = re.sub(
        r'\sid="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text
    )
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    opening, _, rest = text.partition(">")
    opening = re.sub(r'\s(?:width|height)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{html.escape(description)}">{rest}'
