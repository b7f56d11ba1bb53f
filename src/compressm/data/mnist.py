"""Sequential MNIST from the hub's Parquet files."""

from __future__ import annotations

from pathlib import Path

from compressm.data.cache import cached_arrays
from compressm.data.hub import hub_files
from compressm.data.parquet import ImageLayout, find_shards, read_images
from compressm.data.source import Source
from compressm.data.splits import Split, Splits, as_pixels, hold_out

REPOSITORY = "ylecun/mnist"
LAYOUT = ImageLayout(image="image", label="label", mode="L", height=28, width=28, num_classes=10)
VALIDATION_FRACTION = 0.1
# Never the training seed: every run of the task is validated on the same images.
VALIDATION_SEED = 2510


def load_mnist(source: Source) -> Splits:
    """Load MNIST as sequences of 784 pixels, with a tenth of the training images held out for validation.

    Raises:
        DataError: If a file is missing, damaged, or cannot be fetched.
        ModuleNotFoundError: If Parquet has to be read and ``compressm[data]`` is not installed.
    """
    train, validation = hold_out(_read("train", source), fraction=VALIDATION_FRACTION, seed=VALIDATION_SEED)
    return Splits(train, validation, _read("test", source))


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
