"""Several runs at once, each in a process of its own.

Small models leave most of a core's time to synchronisation when several cores share one step; runs side by
side share nothing and do not wait for each other.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from compressm.training.config import TrainConfig
from compressm.training.loop import Progress, train
from compressm.training.run_folder import RunFolder

Watcher = Callable[[int, Progress], None]
POLL_SECONDS = 0.2

_progress: Any = None  # the queue to the parent, in a worker


def train_all(
    jobs: Sequence[tuple[TrainConfig, RunFolder]],
    *,
    processes: int | None = None,
    watch: Watcher | None = None,
) -> None:
    """Train every job into its folder.

    The cores are divided among the processes; a run's numbers do not depend on which of them it is in.

    Args:
        jobs: Settings and folder of each run.
        processes: Runs at once; as many as there are cores, if not given.
        watch: Called in this process with a job's index and progress.

    Raises:
        ValueError: If ``processes`` is below 1.
        Exception: What a run raised, after the runs that had begun ended; the others are not started.
    """
    cores = _cores()
    processes = min(cores if processes is None else processes, len(jobs))
    if processes < 1:
        raise ValueError(f"processes is {processes} for {len(jobs)} runs; both must be at least 1")
    # Spawned, not forked: a forked child inherits thread pools whose threads do not exist there.
    context = multiprocessing.get_context("spawn")
    # A simple queue writes at once: what a run reported is there when its future is done.
    messages = context.SimpleQueue()
    setup = (messages, max(1, cores // processes))
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=setup) as pool:
        futures = [
            pool.submit(_run, index, config, folder.path) for index, (config, folder) in enumerate(jobs)
        ]
        try:
            _follow(futures, messages, watch)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _follow(futures: list[Future[None]], messages: Any, watch: Watcher | None) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=POLL_SECONDS)
        while not messages.empty():
            index, progress = messages.get()
            if watch is not None:
                watch(index, progress)
        for future in done:
            future.result()


def _begin(messages: Any, threads: int) -> None:
    global _progress
    _progress = messages
    torch.set_num_threads(threads)


def _run(index: int, config: TrainConfig, path: Path) -> None:
    train(config, RunFolder(path), watch=lambda progress: _progress.put((index, progress)))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
