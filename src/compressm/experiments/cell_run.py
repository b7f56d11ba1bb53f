"""One cell, from wherever it stands: new, half done, or done and not yet recorded."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from compressm.data import Splits, load
from compressm.data.lock import locked
from compressm.experiments.cells import Cell
from compressm.experiments.results import Record, done_record
from compressm.report import read_run
from compressm.training import Progress, RunFolder, prepare_teacher, resume, train
from compressm.training.run_folder import CHECKPOINT, CONFIG, METRICS
from compressm.training.teacher import teacher_config

TEACHERS = "teachers"
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
    if not _completed(path):
        _train(cell, path, watch)
    return done_record(cell, read_run(path), torch.get_num_threads())


def _train(cell: Cell, path: Path, watch: Callable[[Progress], None]) -> None:
    folder = RunFolder(path)
    splits = load(cell.config.task, data_dir=cell.config.data_dir, progress=False)
    teacher = _teacher(cell, path, splits, watch)
    if (path / CHECKPOINT).is_file():
        resume(folder, splits=splits, watch=watch, teacher_folder=teacher)
    else:
        if path.exists():
            shutil.rmtree(path)
        train(cell.config, folder, splits=splits, watch=watch, teacher_folder=teacher)


def _teacher(cell: Cell, path: Path, splits: Splits, watch: Callable[[Progress], None]) -> Path | None:
    """The run folder of the cell's teacher, which all cells with an equal one share; None without a teacher.

    The first cell that needs it trains it, and others wait for that.
    """
    if cell.config.distillation.teacher_states is None:
        return None
    settings = teacher_config(cell.config)
    teacher = replace(cell, arm=settings.arm, size=None, config=settings)
    folder = path.parent.parent / TEACHERS / teacher.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        prepare_teacher(cell.config, folder, splits=splits, watch=watch)
    return folder


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
