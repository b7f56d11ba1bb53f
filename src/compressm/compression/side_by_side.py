"""Work on several layers at once: a thread for each, instead of many threads for one after the other.

The matrices of a layer are small for several cores: of a singular value decomposition of 768 rows two threads
make hardly more than one does, and waiting for each other costs them processor time. So the threads that
PyTorch may use are shared out over layers.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

MOST = 8
"""Layers worked on at once at most; each takes memory of its own."""


def side_by_side(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Results of independent tasks, in their order.

    Each has an equal share of PyTorch's threads, so what it computes does not depend on what the others do.
    The number of threads is as before afterwards.

    Args:
        tasks: Functions that do not write what another one reads. They run with the caller's grad mode.

    Raises:
        Exception: What the first task that failed raised, once all have ended.
    """
    threads = torch.get_num_threads()
    workers = min(len(tasks), threads, MOST)
    if workers <= 1:
        return [task() for task in tasks]
    grad = torch.is_grad_enabled()

    def run(task: Callable[[], T]) -> T:
        with torch.set_grad_enabled(grad):
            return task()

    # A thread that PyTorch meets for the first time takes the number that is set then.
    torch.set_num_threads(threads // workers)
    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(run, tasks))
    finally:
        torch.set_num_threads(threads)
