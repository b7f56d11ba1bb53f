"""Write the part of MNIST that is shipped inside the package.

    python tools/build_mnist_mini.py FOLDER_WITH_THE_HUBS_MNIST_PARQUET_FILES [--out FOLDER]

The same files on every run: images are taken at even distances along each digit's rows, nothing is random.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import sys
from pathlib import Path

import numpy as np

from compressm.data.mnist import LAYOUT
from compressm.data.mnist_mini import IMAGES, MANIFEST
from compressm.data.parquet import find_shards, read_images
from compressm.data.splits import Array

PER_DIGIT = {"train": 1575, "validation": 175, "test": 400}
# Every tenth of the images taken from the training set is for validation.
VALIDATION_EVERY = 10
LIMIT = 2_950_000
# Pixels have no 4-byte alignment (pb=0), but each resembles the one before (lc=4).
FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "dict_size": 1 << 25,
        "lc": 4,
        "lp": 0,
        "pb": 0,
        "mode": lzma.MODE_NORMAL,
        "nice_len": 273,
        "mf": lzma.MF_BT4,
    }
]


def spread(images: Array, labels: Array, digit: int, count: int) -> Array:
    """Take ``count`` images of a digit at even distances, so that every writer group is met."""
    rows = np.flatnonzero(labels == digit)
    if len(rows) < count:
        raise ValueError(f"digit {digit} has {len(rows)} images, {count} are wanted")
    return images[rows[np.arange(count) * len(rows) // count]]


def select(folder: Path) -> Array:
    """Return ``(digit, image, 28, 28)``: training, validation and test images of each digit."""
    train, test = (
        read_images(find_shards(folder, part, subfolders=("mnist",)), LAYOUT, progress=True)
        for part in ("train", "test")
    )
    digits = []
    for digit in range(LAYOUT.num_classes):
        known = spread(train["images"], train["labels"], digit, PER_DIGIT["train"] + PER_DIGIT["validation"])
        held = np.arange(len(known)) % VALIDATION_EVERY == VALIDATION_EVERY - 1
        unseen = spread(test["images"], test["labels"], digit, PER_DIGIT["test"])
        digits.append(np.concatenate([known[~held], known[held], unseen]))
    return np.stack(digits)


def main() -> None:
    """Write the images and their manifest."""
    parser = argparse.ArgumentParser(description="Write the part of MNIST shipped inside the package.")
    parser.add_argument("folder", type=Path, help="folder that holds the hub's Parquet files of MNIST")
    default = Path(__file__).parents[1] / "src" / "compressm" / "data" / "mnist_mini"
    parser.add_argument("--out", type=Path, default=default, help="folder to write to (the package's own)")
    options = parser.parse_args()

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, select(options.folder), version=(1, 0), allow_pickle=False)
    packed = lzma.compress(buffer.getvalue(), format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=FILTERS)
    if len(packed) > LIMIT:
        sys.exit(f"{len(packed):,} bytes are more than the limit of {LIMIT:,}; lower PER_DIGIT")
    manifest = {"sha256": hashlib.sha256(packed).hexdigest(), "per_digit": PER_DIGIT}
    (options.out / IMAGES).write_bytes(packed)
    (options.out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{options.out / IMAGES}: {len(packed):,} bytes\n")


if __name__ == "__main__":
    main()
