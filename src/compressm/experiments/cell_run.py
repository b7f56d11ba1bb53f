"""One cell, from wherever it stands: new, half done, or done and not yet recorded."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from compressm.data import load
from compressm.experiments.cells import Cell
from compressm.experiments.results import Record, done_record
from compressm.report import read_run
from compressm.training import Progress, RunFolder, resume, train
from compressm.training.run_folder import CHECKPOINT, CONFIG, METRICS

_KEPT = (".json", ".jsonl")


def run_cell(cell: Cell, path: Path, watch: Callable[[Progress], None]) -> Record:
    """Run a cell to its end and return its record.

    A folder with a checkpoint is resumed; one that was left before its first checkpoint is begun anew.

    Args:
        cell: What to run.
        path: Its run folder, which belongs to this cell alone.
        watch: Called with the progress.

    Raises:
        Exception: What the run raised. Its folder is left as it is.
    """
    folder = RunFolder(path)
    if not _completed(path):
        splits = load(cell.config.task, data_dir=cell.config.data_dir, progress=False)
        if (path / CHECKPOINT).is_file():
            resume(folder, splits=splits, watch=watch)
        else:
            if path.exists():
                shutil.rmtree(path)
            train(cell.config, folder, splits=splits, watch=watch)
    return done_record(cell, read_run(path), torch.get_num_threads())


def drop_big_files(path: Path) -> None:
    """Keep of a run folder its settings, metrics, cuts and tracking; not its model and checkpoint."""
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.suffix not in _KEPT:
            entry.unlink()


def _completed(path: Path) -> bool:
    if not (path / CONFIG).is_file() or not (path / METRICS).is_file() or (path / CHECKPOINT).is_file():
        return False
    run = read_run(path)
    return run.summary is not None and run.test is not None
