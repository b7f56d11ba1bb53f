"""ListOps files made by several processes; the same for any number of them."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from compressm.data.generated import new_folder
from compressm.data.listops.grammar import Limits, evaluate, random_expression
from compressm.data.progress import progress_bar
from compressm.data.task import Recipe

FILES = ("basic_train.tsv", "basic_val.tsv", "basic_test.tsv")
HEADER = "Source\tTarget"
# Expressions that share a stream of random numbers: never changed, or the same seed gives other data.
BLOCK = 100
Job = tuple[int, int, int, int]


def generate(folder: Path, recipe: Recipe) -> None:
    """Write ``FOLDER/listops`` with the three files; with this length no two expressions are alike.

    Raises:
        DataError: If the folder exists already or cannot be written.
    """
    with (
        new_folder(folder / "listops", recipe) as temporary,
        _mapper(recipe.workers) as spread,
        progress_bar("generating listops", sum(recipe.sizes), show=recipe.progress) as advance,
    ):
        for part, (name, size) in enumerate(zip(FILES, recipe.sizes, strict=True)):
            jobs = [
                (recipe.seed, part, block, min(BLOCK, size - start))
                for block, start in enumerate(range(0, size, BLOCK))
            ]
            with (temporary / name).open("w", encoding="utf-8", newline="\n") as file:
                file.write(f"{HEADER}\n")
                for lines in spread(jobs):
                    file.writelines(lines)
                    advance(len(lines))


class _Spread:
    """Makes blocks in order, here or in other processes."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self._pool = pool

    def __call__(self, jobs: Iterable[Job]) -> Iterator[list[str]]:
        return map(make_block, jobs) if self._pool is None else self._pool.map(make_block, jobs)


@contextmanager
def _mapper(workers: int) -> Iterator[_Spread]:
    if workers == 1:
        yield _Spread(None)
        return
    # Spawned: a fork would copy the locks of threads that do not exist in the child.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield _Spread(pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def make_block(job: Job) -> list[str]:
    """Make lines of a file; a job is ``(seed, part, block, count)``."""
    *key, count = job
    words = np.random.SeedSequence(key).generate_state(4)
    generator = random.Random(int.from_bytes(words.astype("<u4").tobytes(), "little"))  # noqa: S311 - data
    lines = []
    for _ in range(count):
        tokens = random_expression(generator, Limits())
        lines.append(f"{' '.join(tokens)}\t{evaluate(tokens)}\n")
    return lines
