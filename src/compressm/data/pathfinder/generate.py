"""Pathfinder files made by several threads; the same for any number of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compressm.data.generated import new_folder
from compressm.data.progress import progress_bar
from compressm.data.splits import Array
from compressm.data.table import missing_extra
from compressm.data.task import Recipe

FILES = tuple(f"{part}-00000-of-00001.parquet" for part in ("train", "validation", "test"))
BLOCK = 500
LONG, SHORT = 14, 6
"""Dashes of a long contour: in the Long Range Arena's hard setting, and in its easy one."""


def make_images(seeds: Array, long: int = LONG) -> tuple[Array, Array]:
    """Draw one image for each seed.

    Args:
        seeds: Integers, uint64 ``(count,)``.
        long: Dashes of a long contour.

    Returns:
        Images, uint8 ``(count, 32, 32)``, and labels, int64 ``(count,)``: 1 where the dots are joined.
    """
    from compressm.data.pathfinder.drawing import PIXELS, draw

    images = np.empty((len(seeds), PIXELS, PIXELS), np.uint8)
    labels = np.empty(len(seeds), np.int64)
    draw(seeds, images, labels, long)
    return images, labels


def generate(folder: Path, recipe: Recipe, *, name: str = "pathfinder", long: int = LONG) -> None:
    """Write ``FOLDER/name`` with the three files.

    Raises:
        DataError: If the folder exists already or cannot be written.
        ModuleNotFoundError: If the extra ``compressm[data]`` is not installed.
    """
    with (
        new_folder(folder / name, recipe) as temporary,
        progress_bar(f"generating {name}", sum(recipe.sizes), show=recipe.progress) as advance,
    ):
        for part, (file, size) in enumerate(zip(FILES, recipe.sizes, strict=True)):
            # One seed an image, so that blocks and threads do not matter.
            seeds = np.random.SeedSequence((recipe.seed, part)).generate_state(size, np.uint64)
            with _Writer(temporary / file) as writer:
                for images, labels in _blocks(seeds, recipe.workers, long):
                    writer.write(images, labels)
                    advance(len(labels))


def _blocks(seeds: Array, workers: int, long: int) -> Iterator[tuple[Array, Array]]:
    parts = [seeds[start : start + BLOCK] for start in range(0, len(seeds), BLOCK)]
    # Threads suffice: the compiled code does not hold the interpreter's lock.
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(parts), 4 * workers):
            yield from pool.map(partial(make_images, long=long), parts[start : start + 4 * workers])


class _Writer:
    """One Parquet file of images in the hub's layout."""

    def __init__(self, path: Path) -> None:
        try:
            import PIL.Image
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError as error:
            raise missing_extra(path, error) from error
        file = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        self._schema: Any = pyarrow.schema([("image", file), ("label", pyarrow.int64())])
        self._to_batch: Any = pyarrow.RecordBatch.from_pylist
        self._to_image: Any = PIL.Image.fromarray
        self._file: Any = parquet.ParquetWriter(path, self._schema, compression="zstd")

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, images: Array, labels: Array) -> None:
        rows = [
            {"image": {"bytes": self._png(image), "path": None}, "label": label}
            for image, label in zip(images, labels.tolist(), strict=True)
        ]
        self._file.write_batch(self._to_batch(rows, schema=self._schema))

    def _png(self, image: Array) -> bytes:
        buffer = io.BytesIO()
        self._to_image(image).save(buffer, format="PNG")
        return buffer.getvalue()
