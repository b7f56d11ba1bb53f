"""Table and figure of an experiment, from its results alone."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from compressm.experiments.results import Record, Results
from compressm.experiments.runner import RESULTS
from compressm.report import (
    Cut,
    LayerCut,
    Measurement,
    Run,
    Stage,
    Summary,
    accuracy_figure,
    summary_table,
    to_markdown,
)
from compressm.report.figure_style import house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE, FIGURE = "table.md", "accuracy"


def outcome_runs(out: str | os.PathLike[str]) -> list[Run]:
    """The completed runs of an experiment, as the report reads them from run folders.

    Raises:
        FileNotFoundError: If there is no result.
        ValueError: If a line is damaged.
    """
    results = Results(Path(out) / RESULTS)
    done = results.done()
    if not done:
        raise FileNotFoundError(f"{results.path}: no completed run yet")
    return [record_run(record) for record in done.values()]


def write_outcome(out: str | os.PathLike[str]) -> list[Path]:
    """Write ``table.md`` and ``accuracy.png`` and ``.svg`` beside the results, and return the files.

    The table has one row per arm and size with mean, standard deviation and the score of every seed; the
    figure shows test accuracy against final states.

    Raises:
        FileNotFoundError: If there is no result.
        ValueError: If a line is damaged.
    """
    out = Path(out)
    runs = outcome_runs(out)
    table = out / TABLE
    table.write_text(to_markdown(summary_table(runs)), encoding="utf-8")
    return [table, *save_figure(accuracy_figure(runs), out, FIGURE)]


def save_figure(figure: "Figure", out: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG, and return the files."""
    written = []
    for ending in ("png", "svg"):
        path = out / f"{name}.{ending}"
        with house_style():
            figure.savefig(path, metadata={"Date": None} if ending == "svg" else None)
        written.append(path)
    return written


def record_run(record: Record) -> Run:
    """A line of the results as the report reads runs."""
    plain = record["summary"]
    stages = (Stage(**{**stage, "states": tuple(stage["states"])}) for stage in plain.get("stages", ()))
    summary = Summary(**{**plain, "states": tuple(plain["states"]), "stages": tuple(stages)})
    return Run(
        folder=Path(record["cell"]),
        config={**record["config"], "version": record["version"]},
        validation=(Measurement(**record["validation"]),),
        test=Measurement(**record["test"], states=summary.states, parameters=summary.parameters),
        summary=summary,
        cuts=tuple(_cut(cut) for cut in record["cuts"]),
    )


def _cut(plain: Record) -> Cut:
    return Cut(**{**plain, "layers": tuple(LayerCut(**layer) for layer in plain["layers"])})
