"""Runs what is missing of an experiment."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from compressm.data import load
from compressm.experiments.cell_run import drop_big_files
from compressm.experiments.cells import Cell, make_cells
from compressm.experiments.lock import sole_owner
from compressm.experiments.results import Record, Results, failed_record
from compressm.experiments.settings import Experiment
from compressm.experiments.workers import run_jobs
from compressm.training import Progress

RESULTS, RUNS = "results.jsonl", "runs"


class Watcher(Protocol):
    """Is told what happens, in the process that runs the experiment."""

    def planned(self, cells: Sequence[Cell], done: int) -> None:
        """Before the first run: all cells, and how many of them were done before."""
        ...

    def started(self, cell: Cell) -> None:
        """A cell is begun, or gone on with."""
        ...

    def progressed(self, cell: Cell, progress: Progress) -> None:
        """A running cell wrote a line of metrics."""
        ...

    def ended(self, cell: Cell, record: Record) -> None:
        """A cell is recorded; ``record["status"]`` is "done" or "failed"."""
        ...


def run_experiment(
    experiment: Experiment,
    out: str | os.PathLike[str],
    *,
    data_dir: Path | None = None,
    processes: int = 1,
    threads: int = 1,
    keep_models: bool = False,
    watch: Watcher | None = None,
) -> list[Record]:
    """Run every cell that ``results.jsonl`` does not hold yet.

    All settings and data are checked before the first run. After a kill the same call goes on: completed
    cells are skipped, those half done resume from their checkpoints. A cell that fails is recorded, the
    others run.

    Args:
        experiment: What to run.
        out: Folder for ``results.jsonl`` and the run folders.
        data_dir: Folder with the data files.
        processes: Runs at once.
        threads: Threads of each.
        keep_models: Keep the trained models; otherwise a run folder keeps its settings, metrics and cuts.
        watch: Is told what happens.

    Returns:
        Records of the cells of this experiment that failed, now.

    Raises:
        ValueError: If a number is below 1, the settings of a cell do not go together, or another process is
            at work in ``out``.
        DataError: If data are missing.
    """
    for name, number in (("processes", processes), ("threads", threads)):
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1")
    cells = make_cells(experiment, data_dir)
    out = Path(out)
    with sole_owner(out):
        results = Results(out / RESULTS)
        done = results.done()
        missing = [cell for cell in cells if cell.hash not in done]
        # Data are loaded once here: what is wrong with them shows before the first run, and workers find a
        # filled cache.
        for task, folder in dict.fromkeys((cell.config.task, cell.config.data_dir) for cell in missing):
            load(task, data_dir=folder)
        if watch is not None:
            watch.planned(cells, len(cells) - len(missing))
        return _run(missing, out, results, processes, threads, keep_models, watch)


def _run(
    cells: Sequence[Cell],
    out: Path,
    results: Results,
    processes: int,
    threads: int,
    keep_models: bool,
    watch: Watcher | None,
) -> list[Record]:
    failures = []
    paths = [out / RUNS / cell.folder for cell in cells]
    for index, kind, content in run_jobs(
        list(zip(cells, paths, strict=True)), processes=processes, threads=threads
    ):
        cell = cells[index]
        if kind in ("started", "progress"):
            if watch is not None:
                watch.started(cell) if kind == "started" else watch.progressed(cell, content)
            continue
        record = content if kind == "done" else failed_record(cell, *content)
        results.append(record)
        if kind == "failed":
            failures.append(record)
        elif not keep_models:
            drop_big_files(paths[index])
        if watch is not None:
            watch.ended(cell, record)
    return failures
