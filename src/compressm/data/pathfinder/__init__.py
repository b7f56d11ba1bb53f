"""Pathfinder of the Long Range Arena, 32x32: does a dashed contour join the two dots?

Files in the hub's layout (``train-00000-of-00001.parquet`` and so on, columns image and label) as
:func:`generate` writes them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from compressm.data.cache import cached_arrays
from compressm.data.generated import check_files, find_parts
from compressm.data.parquet import ImageLayout, read_images
from compressm.data.pathfinder.generate import FILES, SHORT, generate
from compressm.data.source import Source
from compressm.data.splits import Array, Split, Splits, as_pixels
from compressm.data.task import Task

LAYOUT = ImageLayout(image="image", label="label", mode="L", height=32, width=32, num_classes=2)


def load_pathfinder(source: Source, *, name: str = "pathfinder", steps: int = 1024) -> Splits:
    """Load the images as sequences of pixels in [0, 1].

    Args:
        source: Where the files are.
        name: Their folder there.
        steps: Steps of a sequence: 1024 single pixels, or 32 rows of 32.

    Raises:
        DataError: If a file is missing or damaged.
        ModuleNotFoundError: If Parquet has to be read and ``compressm[data]`` is not installed.
    """
    return Splits(*(_read(path, source, steps) for path in find_parts(source, name, FILES)))


def _read(path: Path, source: Source, steps: int) -> Split:
    arrays = cached_arrays("pathfinder", [path], partial(_decode, path, source.progress))
    images = arrays["images"]
    return Split(images.reshape(len(images), steps, -1), arrays["labels"], encode=as_pixels)


def _decode(path: Path, progress: bool) -> dict[str, Array]:
    check_files([path])
    return read_images([path], LAYOUT, progress=progress)


TASKS = (
    Task(
        name="pathfinder",
        input_dim=1,
        num_classes=2,
        length=1024,
        sizes=(160_000, 20_000, 20_000),
        description="Pathfinder: are the two dots of a 32x32 image joined by a dashed contour of 14 dashes?",
        origin="Generated (compressm data generate pathfinder) to the hard 32x32 setting of the Long Range "
        "Arena: Tay and others, ICLR 2021, after Linsley and others, NeurIPS 2018.",
        reader=load_pathfinder,
        generator=generate,
        needs_files=True,
    ),
    Task(
        name="pathfinder-short",
        input_dim=32,
        num_classes=2,
        length=32,
        sizes=(160_000, 20_000, 20_000),
        description=f"Pathfinder with contours of {SHORT} dashes, row by row: 32 steps of 32 pixels.",
        origin="Generated (compressm data generate pathfinder-short) after the easy setting of the same.",
        reader=partial(load_pathfinder, name="pathfinder-short", steps=32),
        generator=partial(generate, name="pathfinder-short", long=SHORT),
        needs_files=True,
    ),
)
