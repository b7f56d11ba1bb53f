"""``compressm data``: what tasks there are, and their files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from compressm.data import Recipe, describe, get_task, load, task_names


@dataclass(frozen=True)
class List:
    """Show all tasks."""


@dataclass(frozen=True)
class Describe:
    """Show what a task is and where its data comes from."""

    name: tyro.conf.Positional[str]
    """Task."""


@dataclass(frozen=True)
class Fetch:
    """Download and decode a task's files, so that training starts at once."""

    name: tyro.conf.Positional[str]
    """Task."""
    data_dir: Path | None = None
    """Folder with the task's files; downloads them if not given."""


@dataclass(frozen=True)
class Generate:
    """Make the files of a task whose data compressm generates itself."""

    name: tyro.conf.Positional[str]
    """Task."""
    out: Path = Path("data")
    """Folder that gets the folder NAME; give it to training as --data-dir."""
    size: tuple[int, int, int] | None = None
    """Training, validation and test sequences; the task's own numbers if not given."""
    seed: int = 0
    """Seed of everything random."""
    workers: int = os.cpu_count() or 1
    """Processes or threads; the files do not depend on it."""


Command = (
    Annotated[List, tyro.conf.subcommand("list", prefix_name=False)]
    | Annotated[Describe, tyro.conf.subcommand("describe", prefix_name=False)]
    | Annotated[Fetch, tyro.conf.subcommand("fetch", prefix_name=False)]
    | Annotated[Generate, tyro.conf.subcommand("generate", prefix_name=False)]
)


def data(command: Command) -> None:
    """List, describe, fetch or generate the data of tasks."""
    console = Console()
    match command:
        case List():
            console.print(_overview())
        case Describe():
            console.print(describe(command.name), markup=False, highlight=False)
        case Fetch():
            _fetch(command, console)
        case Generate():
            _generate(command, console)


def _overview() -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("task", "kind"):
        table.add_column(heading, no_wrap=True)
    for heading in ("steps", "inputs", "training"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("data")
    for task in map(get_task, task_names()):
        data = "generate" if task.generator else "folder" if task.needs_files else "ready"
        row = (task.name, task.kind, f"{task.length:,}", str(task.input_dim), f"{task.sizes[0]:,}")
        table.add_row(*row, data)
    table.caption = (
        "ready: fetched where needed, or part of the package. folder: give --data-dir. "
        "generate: compressm data generate TASK --out DIR."
    )
    return table


def _fetch(command: Fetch, console: Console) -> None:
    splits = load(command.name, data_dir=command.data_dir)
    sizes = [f"{len(split):,}" for split in (splits.train, splits.validation, splits.test)]
    text = f"{command.name}: {sizes[0]} training, {sizes[1]} validation and {sizes[2]} test sequences ready"
    console.print(text, highlight=False, soft_wrap=True)


def _generate(command: Generate, console: Console) -> None:
    task = get_task(command.name)
    if task.generator is None:
        known = ", ".join(name for name in task_names() if get_task(name).generator)
        raise ValueError(f"{command.name} is not generated; choose one of {known}, or see: data list")
    recipe = Recipe(sizes=command.size or task.sizes, seed=command.seed, workers=command.workers)
    task.generator(command.out, recipe)
    console.print(
        f"{command.out / command.name} written; train with: compressm train {command.name} "
        f"--data-dir {command.out}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
