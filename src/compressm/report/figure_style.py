"""The common look of the figures, drawn without pyplot and without a lasting change to its settings.

matplotlib is imported when the first figure is drawn, so that importing the package stays quick.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .groups import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#22262b"
MUTED = "#6b7280"
GRID = "#e6e8eb"
WIDTH = 6.2  # inches: fills a text column, and its labels can still be read on a phone

# Okabe and Ito's palette, told apart with every common form of colour blindness.
_ARM_COLOURS = {"compressm": "#0072B2", "full": "#3d4248", "scratch": "#D55E00"}
_OTHER_COLOURS = ("#009E73", "#CC79A7", "#B8860B", "#56B4E9")
_ARM_MARKERS = {"compressm": "o", "full": "s", "scratch": "^"}
_OTHER_MARKERS = ("D", "v", "P", "X")
_DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (2, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
)

_SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"],
    "font.size": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.minor.visible": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # text stays text: small, sharp, searchable
    "svg.hashsalt": "compressm",
    "savefig.dpi": 160,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save inside this, whatever the user's own settings are; they are restored after it."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(
    height: float, rows: int = 1, columns: int = 1, *, share: Literal["none", "x", "xy"] = "none"
) -> tuple[Figure, list[Axes]]:
    """Return an Agg figure of the common width and its axes, row by row; `share` joins their scales."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share != "none", sharey=share == "xy")
    return figure, list(axes.flat)


@dataclass(frozen=True)
class Stroke:
    """How a group is drawn, the same in every figure."""

    colour: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]]

    @property
    def line(self) -> dict[str, Any]:
        """What matplotlib needs to draw a line of this group."""
        return {"color": self.colour, "linestyle": self.dashes}


def strokes(groups: Sequence[Group]) -> list[Stroke]:
    """Return a colour and marker per arm, and a dash pattern per size within an arm."""
    others = sorted({group.arm for group in groups} - set(_ARM_COLOURS))
    seen: dict[str, int] = {}
    found = []
    for group in groups:
        rank = seen[group.arm] = seen.get(group.arm, -1) + 1
        dashes = _DASHES[rank % len(_DASHES)]
        if group.arm in _ARM_COLOURS:
            found.append(Stroke(_ARM_COLOURS[group.arm], _ARM_MARKERS[group.arm], dashes))
        else:
            place = others.index(group.arm)
            colour = _OTHER_COLOURS[place % len(_OTHER_COLOURS)]
            # One further for every round of the colours: sixteen arms can be told apart.
            marker = _OTHER_MARKERS[(place + place // len(_OTHER_COLOURS)) % len(_OTHER_MARKERS)]
            found.append(Stroke(colour, marker, dashes))
    return found


def ramp(count: int) -> list[str]:
    """Return colours from light to dark blue, for things that follow each other in time."""
    light, dark = (0x7F, 0xC4, 0xEA), (0x08, 0x30, 0x6B)
    colours = []
    for place in range(count):
        share = place / (count - 1) if count > 1 else 1.0
        mixed = (round(a + share * (b - a)) for a, b in zip(light, dark, strict=True))
        colours.append("#" + "".join(f"{part:02x}" for part in mixed))
    return colours


def thinned(count: int, most: int, *, logarithmic: bool = False) -> list[int]:
    """Return at most `most` of the indices 0 ... count - 1, first and last among them."""
    if count <= most:
        return list(range(count))
    if logarithmic:
        return sorted({round(count ** (place / (most - 1))) - 1 for place in range(most)})
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})


def plain_power(value: float, _position: object = None) -> str:
    """Label a tick of a logarithmic axis: `0.01`, `1`, `10⁻⁵`."""
    if value <= 0:
        return ""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    exponent = round(math.log10(value))
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def legend_above(figure: Figure, axes: Axes) -> None:
    """Place the legend of `axes` above all panels of the figure, in rows."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        short = [label if len(label) <= 36 else label[:35] + "…" for label in labels]
        widest = 5.0 * max(map(len, short)) + 45  # points, for letters of 8.5 points and the sample line
        columns = max(1, min(len(handles), int(72 * WIDTH / widest)))
        figure.legend(handles, short, loc="outside upper left", ncols=columns)
