"""The part of MNIST inside the package: equally many images of each digit, exact pixels.

``images.npy.xz`` is one uint8 array ``(digit, image, 28, 28)``: for each digit first the training images,
then the validation images (both from MNIST's training set), then the test images (from its test set).
``manifest.json`` says how many of each, and the checksum of the file.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
from importlib.resources import files

import numpy as np

from compressm.data.errors import DataError
from compressm.data.mnist import ORIGIN
from compressm.data.splits import Array, Split, Splits, as_pixels
from compressm.data.task import Task

IMAGES = "images.npy.xz"
MANIFEST = "manifest.json"
PARTS = ("train", "validation", "test")


def load_mnist_mini() -> Splits:
    """Load the packaged images as sequences of 784 pixels.

    The digits alternate (0, 1, ..., 9, 0, ...), so that every prefix of a split is balanced.

    Raises:
        DataError: If the packaged file is missing or not the one that was shipped.
    """
    folder = files(__name__)
    try:
        packed = folder.joinpath(IMAGES).read_bytes()
        manifest = json.loads(folder.joinpath(MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{error.filename} is missing from the installed package; install compressm again"
        ) from error
    found = hashlib.sha256(packed).hexdigest()
    if found != manifest["sha256"]:
        raise DataError(
            f"{folder.joinpath(IMAGES)} is damaged: its sha256 is {found}, it should be "
            f"{manifest['sha256']}; install compressm again"
        )
    return _arrange(np.load(io.BytesIO(lzma.decompress(packed)), allow_pickle=False), manifest["per_digit"])


def _arrange(images: Array, per_digit: dict[str, int]) -> Splits:
    digits = len(images)
    pixels = images.reshape(digits, images.shape[1], -1, 1)
    parts = []
    start = 0
    for part in PARTS:
        count = per_digit[part]
        inputs = pixels[:, start : start + count].swapaxes(0, 1).reshape(count * digits, -1, 1)
        parts.append(Split(inputs, np.tile(np.arange(digits), count), encode=as_pixels))
        start += count
    return Splits(*parts)


TASKS = (
    Task(
        name="smnist-mini",
        input_dim=1,
        num_classes=10,
        length=784,
        sizes=(15_750, 1_750, 4_000),
        description="A part of sequential MNIST with equally many images of each digit.",
        origin=f"{ORIGIN} Part of this package: needs no network and no data folder.",
        reader=lambda _: load_mnist_mini(),
    ),
)
