"""The tasks by name: what each one is, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compressm.data.mnist import load_mnist
from compressm.data.mnist_mini import load_mnist_mini
from compressm.data.source import Source
from compressm.data.splits import Splits
from compressm.data.toy import LENGTH, PERIODS, SIZES, make_toy

Reader = Callable[[Source], Splits]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A sequence classification task.

    Attributes:
        name: What the user types.
        input_dim: Features per step.
        num_classes: Number of classes.
        length: Longest sequence, in steps.
        sizes: Number of training, validation and test sequences.
        description: One sentence about the task.
        origin: Where the data comes from, and its licence.
        reader: Makes the splits from a source.
    """

    name: str
    input_dim: int
    num_classes: int
    length: int
    sizes: tuple[int, int, int]
    description: str
    origin: str
    reader: Reader


_MNIST_ORIGIN = (
    "MNIST by Yann LeCun and Corinna Cortes, commonly given as CC BY-SA 3.0; "
    "LeCun, Bottou, Bengio, Haffner, Proc. IEEE 86(11), 1998."
)
_TASKS = {
    task.name: task
    for task in (
        Task(
            name="smnist",
            input_dim=1,
            num_classes=10,
            length=784,
            sizes=(54_000, 6_000, 10_000),
            description="Sequential MNIST: a handwritten digit read pixel by pixel, values in [0, 1].",
            origin=f"{_MNIST_ORIGIN} Read from a data folder, or fetched from the hub (ylecun/mnist).",
            reader=load_mnist,
        ),
        Task(
            name="smnist-mini",
            input_dim=1,
            num_classes=10,
            length=784,
            sizes=(15_750, 1_750, 4_000),
            description="A part of sequential MNIST with equally many images of each digit.",
            origin=f"{_MNIST_ORIGIN} Part of this package: needs no network and no data folder.",
            reader=lambda _: load_mnist_mini(),
        ),
        Task(
            name="toy",
            input_dim=1,
            num_classes=len(PERIODS),
            length=LENGTH,
            sizes=SIZES,
            description="Noisy sine waves of different lengths; the class is the period.",
            origin="Made in memory, for tests and first steps.",
            reader=lambda _: make_toy(),
        ),
    )
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
    return "\n".join(
        (
            f"{task.name}: {task.description}",
            f"  sequences   {train:,} train, {validation:,} validation, {test:,} test",
            f"  shape       up to {task.length:,} steps of {task.input_dim} "
            f"{'value' if task.input_dim == 1 else 'values'}, {task.num_classes} classes",
            f"  origin      {task.origin}",
        )
    )
