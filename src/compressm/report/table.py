"""A table as data, and its three renderings: terminal, Markdown and HTML.

All formatting of numbers happens where the table is made; the renderings only place strings.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, groupby
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import rich.table


_SHORT = 24  # characters of a list of values that is never broken in the terminal


@dataclass(frozen=True)
class Column:
    """A heading, its unit, on which side the cells line up, and the heading it shares with neighbours.

    `key` columns say what a row is about; they are repeated where a table is split.
    """

    title: str
    unit: str = ""
    align: Literal["left", "right"] = "right"
    group: str = ""
    key: bool = False

    @property
    def heading(self) -> str:
        """The whole heading on one line: `step before cuts (ms)`."""
        words = f"{self.group} {self.title}".strip()
        return f"{words} ({self.unit})" if self.unit else words


@dataclass(frozen=True)
class Row:
    """Cells as finished strings, one per column; `strong` marks the row a reader should find first."""

    cells: tuple[str, ...]
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose cells are finished strings.

    Raises:
        ValueError: a row has not one cell per column.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"row {number} has {len(row.cells)} cells for {len(self.columns)} columns: {row.cells!r}"
                )

    def column(self, heading: str) -> tuple[str, ...]:
        """Return the cells below a heading, as `Column.heading` spells it.

        Raises:
            KeyError: no column has this heading.
        """
        headings = [column.heading for column in self.columns]
        if heading not in headings:
            raise KeyError(f"no column {heading!r}; the columns are {', '.join(headings)}")
        return tuple(row.cells[headings.index(heading)] for row in self.rows)

    def without_empty_columns(self, empty: str) -> Table:
        """Return the table without those columns in which every cell is `empty`."""
        return self._keep([any(row.cells[i] != empty for row in self.rows) for i in range(len(self.columns))])

    def split(self, groups: Sequence[str]) -> tuple[Table, Table]:
        """Return two narrower tables: without the columns of `groups`, and the key columns with those."""
        inside = [column.group in groups for column in self.columns]
        wanted = [found or column.key for found, column in zip(inside, self.columns, strict=True)]
        return self._keep([not found for found in inside]), self._keep(wanted)

    def _keep(self, wanted: Sequence[bool]) -> Table:
        rows = (Row(tuple(compress(row.cells, wanted)), row.strong) for row in self.rows)
        return Table(tuple(compress(self.columns, wanted)), tuple(rows), self.notes)


def to_rich(table: Table, *, compact: bool = False) -> rich.table.Table:
    """Render for the terminal, with narrow gaps if `compact`; text is taken literally, never as markup."""
    import rich.box
    import rich.table
    from rich.text import Text

    rendered = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=compact
    )
    for place, (column, heading) in enumerate(zip(table.columns, _stacked(table.columns), strict=True)):
        # Numbers and short lists stay whole; where the console is narrow, headings and the words that
        # say what a row is about break at their spaces.
        cells = [row.cells[place] for row in table.rows]
        longest = max(map(len, cells), default=0)
        keep = not column.key and column.align == "left" and longest <= _SHORT
        pieces = [*heading.split(), *(word for cell in cells for word in cell.split())]
        least = max((len(piece) for piece in pieces), default=1)
        rendered.add_column(Text(heading), justify=column.align, no_wrap=keep, min_width=least)
    for row in table.rows:
        rendered.add_row(*(Text(cell) for cell in row.cells), style="bold" if row.strong else None)
    return rendered


def to_markdown(table: Table) -> str:
    """Render as a Markdown pipe table, notes below, ending in a newline."""
    headings = [column.heading for column in table.columns]
    rules = ["---:" if column.align == "right" else "---" for column in table.columns]
    lines = [_markdown_line(headings), "| " + " | ".join(rules) + " |"]
    for row in table.rows:
        cells = [_markdown_text(cell) for cell in row.cells]
        lines.append(
            "| " + " | ".join(f"**{cell}**" if row.strong and cell else cell for cell in cells) + " |"
        )
    if table.notes:
        lines += ["", *(f"- {_markdown_text(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """Render as an HTML table inside a box that scrolls sideways where the page is too narrow."""
    parts = ['<div class="scroll"><table>', "<thead>", *_html_head(table.columns), "</thead>", "<tbody>"]
    for row in table.rows:
        parts.append('<tr class="strong">' if row.strong else "<tr>")
        for column, cell in zip(table.columns, row.cells, strict=True):
            parts.append(f'<td class="{column.align}">{html.escape(cell)}</td>')
        parts.append("</tr>")
    parts.append("</tbody></table></div>")
    if table.notes:
        parts.append('<ul class="notes">')
        parts += [f"<li>{html.escape(note)}</li>" for note in table.notes]
        parts.append("</ul>")
    return "\n".join(parts)


def _stacked(columns: Sequence[Column]) -> list[str]:
    """Return headings as lines (group, title, unit) that stand level across the columns."""
    first = {column.group: place for place, column in reversed(list(enumerate(columns)))}
    stacks = [
        (column.group if first[column.group] == place else "", column.title, column.unit)
        for place, column in enumerate(columns)
    ]
    used = [any(stack[line] for stack in stacks) for line in range(3)]
    return ["\n".join(compress(stack, used)) for stack in stacks]


def _html_head(columns: Sequence[Column]) -> list[str]:
    """Return one heading row, or two where columns share a heading."""
    grouped = any(column.group for column in columns)
    above: list[str] = []
    below: list[str] = []
    for group, members in groupby(columns, key=lambda column: column.group):
        found = list(members)
        if group:
            above.append(
                f'<th scope="colgroup" colspan="{len(found)}" class="group">{html.escape(group)}</th>'
            )
        for column in found:
            unit = f' <span class="unit">{html.escape(column.unit)}</span>' if column.unit else ""
            span = ' rowspan="2"' if grouped and not group else ""
            cell = f'<th scope="col"{span} class="{column.align}">{html.escape(column.title)}{unit}</th>'
            (below if group or not grouped else above).append(cell)
    rows = [above, below] if grouped else [below]
    return ["<tr>" + "".join(row) + "</tr>" for row in rows]


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_markdown_text(cell) for cell in cells) + " |"


def _markdown_text(text: str) -> str:
    """Escape what Markdown would read as its own signs, or as HTML."""
    for sign in "\\`*_[]|":
        text = text.replace(sign, "\\" + sign)
    return html.escape(text, quote=False).replace("\n", " ")
