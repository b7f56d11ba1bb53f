"""The report in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .headline import headline
from .runs import Run
from .summary import RUN_GROUP, STEP_GROUP, summary_table
from .table import Table, to_rich

if TYPE_CHECKING:
    from rich.console import Console


def print_summary(runs: Sequence[Run], console: Console | None = None) -> None:
    """Print headline, table and notes; a table too wide for the console is printed in parts.

    Args:
        runs: what to report, from `read_runs`.
        console: where to print, by default standard output.

    Raises:
        ValueError: no run is given.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console() if console is None else console
    story = headline(runs)
    console.print(Text(story.text, style="bold"))
    console.print(Text(story.basis, style="dim"))
    table = summary_table(runs)
    if _fits(table, console):
        console.print(to_rich(table))
    else:
        results, costs = table.split((STEP_GROUP, RUN_GROUP))
        parts = (costs,) if _fits(costs, console, compact=True) else costs.split((RUN_GROUP,))
        for part in (results, *parts):
            console.print(to_rich(part, compact=True))
    for note in table.notes:
        console.print(Text(note, style="yellow"))


def _fits(table: Table, console: Console, *, compact: bool = False) -> bool:
    unlimited = console.options.update(width=10_000)
    return to_rich(table, compact=compact).__rich_measure__(console, unlimited).maximum <= console.width
