"""ListOps files made by several processes; the same for any number of them."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
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


def generate(folder: Path, recipe: Recipe, *, name: str = "listops", limits: Limits | None = None) -> None:
    """Write ``FOLDER/NAME`` with the three files; with such lengths no two expressions are alike.

    Args:
        folder: Where.
        recipe: Sizes, seed, workers.
        name: Of the task.
        limits: Of the expressions; those of the Long Range Arena if not given.

    Raises:
        DataError: If the folder exists already or cannot be written.
    """
    with (
        new_folder(folder / name, recipe) as temporary,
        _mapper(recipe.workers, limits or Limits()) as spread,
        progress_bar(f"generating {name}", sum(recipe.sizes), show=recipe.progress) as advance,
    ):
        for part, (file_name, size) in enumerate(zip(FILES, recipe.sizes, strict=True)):
            jobs = [
                (recipe.seed, part, block, min(BLOCK, size - start))
                for block, start in enumerate(range(0, size, BLOCK))
            ]
            with (temporary / file_name).open("w", encoding="utf-8", newline="\n") as file:
                file.write(f"{HEADER}\n")
                for lines in spread(jobs):
                    file.writelines(lines)
                    advance(len(lines))


class _Spread:
    """Makes blocks in order, here or in other processes."""

    def __init__(self, pool: ProcessPoolExecutor | None, limits: Limits) -> None:
        self._pool, self._make = pool, partial(make_block, limits)

    def __call__(self, jobs: Iterable[Job]) -> Iterator[list[str]]:
        return map(self._make, jobs) if self._pool is None else self._pool.map(self._make, jobs)


@contextmanager
def _mapper(workers: int, limits: Limits) -> Iterator[_Spread]:
    if workers == 1:
        yield _Spread(None, limits)
        return
    # Spawned: a fork would copy the locks of threads that do not exist in the child.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield _Spread(pool, limits)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def make_block(limits: Limits, job: Job) -> list[str]:
    """Make lines of a file; a job is ``(seed, part, block, count)``."""
    *key, count = job
    words = np.random.SeedSequence(key).generate_state(4)
    generator = random.Random(int.from_bytes(words.astype("<u4").tobytes(), "little"))  # noqa: S311 - data
    lines = []
    for _ in range(count):
        tokens = random_expression(generator, limits)
        lines.append(f"{' '.join(tokens)}\t{evaluate(tokens)}\n")
    return lines
