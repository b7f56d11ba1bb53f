"""A progress bar on the terminal, and nothing in a log file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

Advance = Callable[[int], None]


@contextmanager
def progress_bar(
    description: str, total: int | None, *, show: bool, done: int = 0, in_bytes: bool = False
) -> Iterator[Advance]:
    """Show a bar on standard error while the body runs, if that is a terminal.

    Args:
        description: What is going on.
        total: Steps, or None where they are not known beforehand.
        show: False shows nothing.
        done: Steps that are already done.
        in_bytes: The steps are bytes.

    Yields:
        A function that moves the bar on by some steps.
    """
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (show and console.is_terminal),
    )
    with progress:
        task = progress.add_task(description, total=total, completed=done)
        yield lambda steps: progress.advance(task, steps)
