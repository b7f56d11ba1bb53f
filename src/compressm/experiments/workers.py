"""Processes that run cells side by side, and die with their parent.

Unlike a pool of futures this survives a worker that is killed (out of memory, say): only its cell fails.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from compressm.experiments.cell_run import run_cell
from compressm.experiments.cells import Cell

Job = tuple[Cell, Path]
# A job's index and what happened: ("started", None), ("progress", Progress), ("done", Record) or
# ("failed", (error, traceback)).
Event = tuple[int, str, Any]


class _Worker:
    """A process that runs one job after another, seen from the parent."""

    def __init__(self, threads: int, number: int) -> None:
        # Spawned, not forked: a forked child inherits thread pools whose threads do not exist there.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads, number), daemon=True)
        self.process.start()
        theirs.close()
        self.job: int | None = None

    def give(self, index: int, job: Job) -> None:
        self.job = index
        self.connection.send(job)

    def end(self) -> str:
        """Why a process that no longer answers has gone."""
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        if code < 0:
            return f"its process was killed ({signal.Signals(-code).name}), perhaps for lack of memory"
        return f"its process ended with exit code {code}"


def run_jobs(jobs: Sequence[Job], *, processes: int, threads: int) -> Iterator[Event]:
    """Run every job, ``processes`` at once with ``threads`` each, and yield what happens as it does.

    What a job raises is an event; the others go on. Leaving the iteration ends the workers.
    """
    waiting = list(enumerate(jobs))[::-1]
    workers: dict[Connection, _Worker] = {}
    try:
        while waiting or workers:
            while waiting and len(workers) < processes:
                worker = _Worker(threads, len(workers))
                workers[worker.connection] = worker
                yield _next(worker, waiting)
            for connection in wait(list(workers)):
                worker = workers[connection]  # type: ignore[index]
                yield from _handle(worker, workers, waiting)
    finally:
        for worker in workers.values():
            worker.process.terminate()
            worker.process.join()


def _next(worker: _Worker, waiting: list[tuple[int, Job]]) -> Event:
    index, job = waiting.pop()
    worker.give(index, job)
    return index, "started", None


def _handle(
    worker: _Worker, workers: dict[Connection, _Worker], waiting: list[tuple[int, Job]]
) -> Iterator[Event]:
    index = worker.job
    if index is None:
        raise RuntimeError("a worker without a job has spoken")
    try:
        kind, content = worker.connection.recv()
    except (EOFError, ConnectionError):
        del workers[worker.connection]
        yield index, "failed", (worker.end(), "")
        return
    yield index, kind, content
    if kind == "progress":
        return
    if waiting:
        yield _next(worker, waiting)
    else:
        worker.connection.send(None)
        worker.process.join()
        del workers[worker.connection]


def _serve(connection: Connection, threads: int, number: int) -> None:
    """The life of a worker: a job comes, progress and a result go, until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    if torch.cuda.is_available():  # several GPUs are shared out among the workers
        torch.cuda.set_device(number % torch.cuda.device_count())
    while (job := connection.recv()) is not None:
        cell, path = job
        connection.send(_outcome(cell, path, lambda progress: connection.send(("progress", progress))))


def _outcome(cell: Cell, path: Path, watch: Callable[[Any], None]) -> tuple[str, Any]:
    try:
        return "done", run_cell(cell, path, watch)
    except Exception as error:  # whatever a run raises is its result; the other runs go on
        return "failed", (f"{type(error).__name__}: {error}", traceback.format_exc())


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)  # at once: whoever starts the experiment again writes to the same folder
