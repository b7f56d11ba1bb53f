"""A table as LaTeX source: plain tabular, no package needed."""

from .table import Column, Table

_SIGNS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\to$",
    "—": "---",
    "–": "--",
    "−": "$-$",
    "τ": r"$\tau$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "“": "``",
    "”": "''",
}


def to_latex(table: Table) -> str:
    """Render as a ``tabular`` with its notes below as comments, ending in a newline."""
    sides = "".join("l" if column.align == "left" else "r" for column in table.columns)
    lines = [
        rf"\begin{{tabular}}{{{sides}}}",
        r"\hline",
        _line([_heading(c) for c in table.columns]),
        r"\hline",
    ]
    for row in table.rows:
        cells = [latex_text(cell) for cell in row.cells]
        lines.append(_line([rf"\textbf{{{cell}}}" if row.strong and cell else cell for cell in cells]))
    lines += [r"\hline", r"\end{tabular}"]
    lines += ["% " + " ".join(note.split()) for note in table.notes]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """Escape what LaTeX would read as its own signs."""
    return "".join(_SIGNS.get(sign, sign) for sign in text)


def _heading(column: Column) -> str:
    return latex_text(column.heading)


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
