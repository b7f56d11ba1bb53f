"""Sequential MNIST from the hub's Parquet files, its pixels in order or in a fixed random order."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from compressm.data.cache import cached_arrays
from compressm.data.encodings import Permuted
from compressm.data.hub import hub_files
from compressm.data.parquet import ImageLayout, find_shards, read_images
from compressm.data.source import Source
from compressm.data.splits import VALIDATION_SEED, Split, Splits, as_pixels, hold_out
from compressm.data.task import Task

REPOSITORY = "ylecun/mnist"
ORIGIN = (
    "MNIST by Yann LeCun and Corinna Cortes, commonly given as CC BY-SA 3.0; "
    "LeCun, Bottou, Bengio, Haffner, Proc. IEEE 86(11), 1998."
)
LAYOUT = ImageLayout(image="image", label="label", mode="L", height=28, width=28, num_classes=10)
PERMUTATION_SEED = 92916


def load_mnist(source: Source) -> Splits:
    """Load MNIST as sequences of 784 pixels, with a tenth of the training images held out for validation.

    Raises:
        DataError: If a file is missing, damaged, or cannot be fetched.
        ModuleNotFoundError: If Parquet has to be read and ``compressm[data]`` is not installed.
    """
    train, validation = hold_out(_read("train", source), seed=VALIDATION_SEED)
    return Splits(train, validation, _read("test", source))


@cache
def permutation() -> tuple[int, ...]:
    """Return the order of pixels of permuted MNIST: the same 784 numbers always."""
    # RandomState's streams are frozen for good, Generator's may change with a NumPy release.
    order = np.random.RandomState(PERMUTATION_SEED).permutation(LAYOUT.height * LAYOUT.width)
    return tuple(order.tolist())


def load_permuted_mnist(source: Source) -> Splits:
    """Load the same splits as :func:`load_mnist`, each image's pixels in the order of :func:`permutation`."""
    plain = load_mnist(source)
    encode = Permuted(permutation())
    return Splits(*(replace(split, encode=encode) for split in (plain.train, plain.validation, plain.test)))


def _read(part: str, source: Source) -> Split:
    shards = _shards(part, source)
    arrays = cached_arrays(
        f"mnist-{part}", shards, lambda: read_images(shards, LAYOUT, progress=source.progress)
    )
    images = arrays["images"]
    return Split(images.reshape(len(images), -1, 1), arrays["labels"], encode=as_pixels)


def _shards(part: str, source: Source) -> list[Path]:
    if source.data_dir is not None:
        return find_shards(source.data_dir, part, subfolders=("mnist",))
    return hub_files(REPOSITORY, [f"mnist/{part}-00000-of-00001.parquet"], source)


_READ = f"{ORIGIN} Read from a data folder, or fetched from the hub ({REPOSITORY})."
TASKS = (
    Task(
        name="smnist",
        input_dim=1,
        num_classes=10,
        length=784,
        sizes=(54_000, 6_000, 10_000),
        description="Sequential MNIST: a handwritten digit read pixel by pixel, values in [0, 1].",
        origin=_READ,
        reader=load_mnist,
    ),
    Task(
        name="psmnist",
        input_dim=1,
        num_classes=10,
        length=784,
        sizes=(54_000, 6_000, 10_000),
        description="Permuted sequential MNIST: the pixels of every image in one fixed random order.",
        origin=_READ,
        reader=load_permuted_mnist,
    ),
)
