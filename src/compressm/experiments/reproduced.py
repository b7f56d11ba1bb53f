"""Tables and figures of a reproduction, from its results and run folders."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressm.experiments.beside_paper import paper_table
from compressm.experiments.cells import make_cells
from compressm.experiments.outcome import record_run, save_figure
from compressm.experiments.reproduction import FigureName, Reproduction
from compressm.experiments.results import Record, Results
from compressm.experiments.runner import RESULTS, RUNS
from compressm.experiments.settings import Experiment
from compressm.report import (
    Run,
    Table,
    accuracy_figure,
    costs_table,
    read_run,
    spectra_figure,
    speed_figure,
    summary_table,
    time_figure,
    to_latex,
    to_markdown,
    tracks_figure,
    training_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FROM_RESULTS: Mapping[FigureName, Callable[[Sequence[Run]], "Figure"]] = {
    "accuracy": accuracy_figure,
    "time": time_figure,
}
# These show what happened on the way, which only the run folders hold.
_FROM_FOLDERS: Mapping[FigureName, Callable[[Sequence[Run]], "Figure | None"]] = {
    "training": training_figure,
    "speed": speed_figure,
    "tracks": tracks_figure,
    "spectra": spectra_figure,
}


def reproduction_records(experiment: Experiment, out: str | os.PathLike[str]) -> list[Record]:
    """The completed runs of this very experiment, in its order; others in the file are left out.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a line is damaged.
    """
    path = Path(out) / RESULTS
    done = Results(path).done()
    records = [done[cell.hash] for cell in make_cells(experiment) if cell.hash in done]
    if not records:
        raise FileNotFoundError(f"{path}: no completed run of {experiment.title!r} yet")
    return records


def reproduction_tables(reproduction: Reproduction, records: Sequence[Record]) -> dict[str, Table]:
    """By file name: the paper's rows beside ours (where there are any), all arms, and what they cost."""
    runs = [record_run(record) for record in records]
    beside = paper_table(reproduction, records)
    tables = {} if beside is None else {"paper": beside}
    return {**tables, "table": summary_table(runs), "costs": costs_table(runs)}


def write_reproduction(
    reproduction: Reproduction, experiment: Experiment, out: str | os.PathLike[str]
) -> list[Path]:
    """Write all tables as Markdown and LaTeX and all figures as PNG and SVG; returns the files.

    Figures of what happened on the way need the run folders; without them they are left out.

    Raises:
        FileNotFoundError: If there is no completed run.
        ValueError: If a line is damaged.
    """
    out = Path(out)
    records = reproduction_records(experiment, out)
    written = []
    for name, table in reproduction_tables(reproduction, records).items():
        for ending, render in (("md", to_markdown), ("tex", to_latex)):
            path = out / f"{name}.{ending}"
            path.write_text(render(table), encoding="utf-8")
            written.append(path)
    runs = [record_run(record) for record in records]
    folders = [out / RUNS / cell.folder for cell in make_cells(experiment)]
    detailed = [read_run(folder) for folder in folders if (folder / "config.json").is_file()]
    for name in reproduction.figures:
        if name in _FROM_RESULTS:
            written += save_figure(_FROM_RESULTS[name](runs), out, name)
        elif detailed and (figure := _FROM_FOLDERS[name](detailed)) is not None:
            written += save_figure(figure, out, name)
    return written
