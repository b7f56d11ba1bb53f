"""CIFAR-10 as sequences: pixel by pixel in colour or grey, or row by row.

The pixels are normalised with the statistics of the original training set (lossless), whatever copy is read,
so that a task does not depend on the copy.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from compressm.data.cache import cached_arrays
from compressm.data.encodings import Grey, Normalised
from compressm.data.hub import hub_files
from compressm.data.parquet import ImageLayout, find_shards, read_images
from compressm.data.source import Source
from compressm.data.splits import VALIDATION_SEED, Encoding, Split, Splits, hold_out
from compressm.data.task import Task

REPOSITORY = "uoft-cs/cifar10"
LAYOUT = ImageLayout(image="img", label="label", mode="RGB", height=32, width=32, num_classes=10)
COLOUR = Normalised(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
GREY = Grey(mean=0.4809, std=0.2392)


def load_cifar(source: Source, *, steps: int = 1024, encode: Encoding = COLOUR) -> Splits:
    """Load CIFAR-10, with a tenth of the training images held out for validation.

    Args:
        source: Where the files are.
        steps: Steps of a sequence: 1024 single pixels of 3 bytes, or 32 rows of 96.
        encode: What is made of the bytes.

    Raises:
        DataError: If a file is missing, damaged, or cannot be fetched.
        ModuleNotFoundError: If Parquet has to be read and ``compressm[data]`` is not installed.
    """
    train, validation = hold_out(_read("train", source, steps, encode), seed=VALIDATION_SEED)
    return Splits(train, validation, _read("test", source, steps, encode))


def _read(part: str, source: Source, steps: int, encode: Encoding) -> Split:
    shards = _shards(part, source)
    arrays = cached_arrays(
        f"cifar10-{part}", shards, lambda: read_images(shards, LAYOUT, progress=source.progress)
    )
    images = arrays["images"]
    return Split(images.reshape(len(images), steps, -1), arrays["labels"], encode=encode)


def _shards(part: str, source: Source) -> list[Path]:
    if source.data_dir is not None:
        return find_shards(source.data_dir, part, subfolders=("cifar10",))
    return hub_files(REPOSITORY, [f"plain_text/{part}-00000-of-00001.parquet"], source)


_task = partial(
    Task,
    num_classes=10,
    sizes=(45_000, 5_000, 10_000),
    origin="CIFAR-10 by Alex Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; no "
    f"explicit licence. Read from a data folder, or fetched from the hub ({REPOSITORY}). A copy with lossy "
    "(JPEG) images gives figures that compare methods, not with published ones.",
)
TASKS = (
    _task(
        name="scifar",
        input_dim=3,
        length=1024,
        description="Sequential CIFAR-10: a colour image read pixel by pixel, each channel normalised.",
        reader=load_cifar,
    ),
    _task(
        name="scifar-grey",
        input_dim=1,
        length=1024,
        description="Sequential CIFAR-10 in grey, normalised, read pixel by pixel.",
        reader=partial(load_cifar, encode=GREY),
    ),
    _task(
        name="cifar-rows",
        input_dim=96,
        length=32,
        description="CIFAR-10 row by row: 32 steps of 32 normalised colour pixels, for quick studies.",
        reader=partial(load_cifar, steps=32),
    ),
)
