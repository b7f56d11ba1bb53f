"""The tasks by name: what each one is, and how it is loaded."""

from __future__ import annotations

from pathlib import Path

from compressm.data import (
    aan,
    cifar,
    copying,
    fsdd,
    imdb,
    induction,
    listops,
    mnist,
    mnist_mini,
    pathfinder,
    recall,
    robot,
    shakespeare,
    sysid,
    toy,
)
from compressm.data.source import Source
from compressm.data.splits import Splits
from compressm.data.task import Task

_TASKS = {
    task.name: task
    for task in (
        *mnist.TASKS,
        *mnist_mini.TASKS,
        *cifar.TASKS,
        *fsdd.TASKS,
        *imdb.TASKS,
        *shakespeare.TASKS,
        *listops.TASKS,
        *pathfinder.TASKS,
        *aan.TASKS,
        *sysid.TASKS,
        *robot.TASKS,
        *recall.TASKS,
        *induction.TASKS,
        *copying.TASKS,
        *toy.TASKS,
    )
}
_WANTED = {
    "classification": "{task.num_classes} classes",
    "pairs": "in pairs, {task.num_classes} classes",
    "tokens": "the next of {task.num_classes} symbols at every step",
    "masked": "one of {task.num_classes} symbols at the steps that ask",
    "regression": "{task.target_dim} real values at every step",
}


def task_names() -> tuple[str, ...]:
    """Return the names of all tasks."""
    return tuple(_TASKS)


def get_task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; choose one of {', '.join(_TASKS)}")
    return _TASKS[name]


def load(
    name: str, *, data_dir: str | Path | None = None, download: bool = True, progress: bool = True
) -> Splits:
    """Load a task's three splits.

    Args:
        name: One of :func:`task_names`.
        data_dir: Folder that holds the task's files; None takes them from the cache or the hub. Tasks that
            are part of the package or made in memory read no files and need none.
        download: Whether files that are neither in ``data_dir`` nor in the cache may be fetched from the hub.
        progress: Show progress on a terminal.

    Raises:
        ValueError: If there is no such task.
        DataError: If a file is missing, damaged, or cannot be fetched.
        ModuleNotFoundError: If reading needs the extra ``compressm[data]`` and it is not installed.
    """
    folder = None if data_dir is None else Path(data_dir).expanduser()
    return get_task(name).reader(Source(data_dir=folder, download=download, progress=progress))


def describe(name: str) -> str:
    """Return a few lines of text about a task.

    Raises:
        ValueError: If there is no such task.
    """
    task = get_task(name)
    train, validation, test = task.sizes
    values = "1 value" if task.input_dim == 1 else f"{task.input_dim} values"
    values = values if task.vocab_size is None else f"one of {task.vocab_size} tokens, one-hot"
    wanted = _WANTED["masked" if task.masked else task.kind].format(task=task)
    return "\n".join(
        (
            f"{task.name}: {task.description}",
            f"  sequences   {train:,} train, {validation:,} validation, {test:,} test",
            f"  shape       up to {task.length:,} steps of {values}, {wanted}",
            f"  kind        {task.kind}",
            f"  origin      {task.origin}",
        )
    )
