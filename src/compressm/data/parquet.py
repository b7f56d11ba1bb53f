"""Labelled images in Parquet files, in the column layout of the Hugging Face hub.

An image is a struct ``{bytes, path}`` whose bytes are an image file (PNG, JPEG); a label is an integer.
Pillow is imported when a file is read, so the package works without it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressm.data.errors import DataError
from compressm.data.progress import Advance, progress_bar
from compressm.data.splits import Array
from compressm.data.table import Columns, find_shards, missing_extra

__all__ = ["ImageLayout", "find_shards", "read_images"]


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """What the rows of a file must be like.

    Attributes:
        image: Name of the image column.
        label: Name of the label column.
        mode: Pillow's mode of every image: "L" (grey) or "RGB".
        height: Rows of pixels.
        width: Columns of pixels.
        num_classes: Labels are 0..num_classes-1.
    """

    image: str
    label: str
    mode: str
    height: int
    width: int
    num_classes: int


def read_images(paths: Sequence[Path], layout: ImageLayout, *, progress: bool) -> dict[str, Array]:
    """Decode all images and labels of some shards, in order.

    Returns:
        ``images`` uint8 ``(count, height, width)`` (with a last axis of 3 for "RGB") and ``labels`` int64
        ``(count,)``.

    Raises:
        DataError: If a file or an image is damaged, or is not of the given layout.
        ModuleNotFoundError: If pyarrow or Pillow is not installed.
    """
    tables = [_read(path, layout) for path in paths]
    count = sum(len(labels) for _, labels in tables)
    channels = () if layout.mode == "L" else (3,)
    images = np.empty((count, layout.height, layout.width, *channels), dtype=np.uint8)
    start = 0
    with progress_bar(f"decoding {paths[0].name}", count, show=progress) as advance:
        for path, (encoded, labels) in zip(paths, tables, strict=True):
            _decode(path, encoded, layout, images[start : start + len(labels)], advance)
            start += len(labels)
    return {"images": images, "labels": np.concatenate([labels for _, labels in tables])}


def _read(path: Path, layout: ImageLayout) -> tuple[list[bytes | None], Array]:
    columns = Columns(path, (layout.image, layout.label))
    encoded = columns.files(layout.image)
    return encoded, columns.labels(layout.label, layout.num_classes)


def _decode(
    path: Path, encoded: list[bytes | None], layout: ImageLayout, out: Array, advance: Advance
) -> None:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise missing_extra(path, error) from error
    wanted = (layout.mode, (layout.width, layout.height))
    for row, data in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(data or b"")) as image:
                if (image.mode, image.size) != wanted:
                    raise DataError(
                        f"row {row} of {path} is a {image.mode} image of size {image.size}, expected {wanted}"
                    )
                out[row] = image
        # Pillow's PNG reader reports a broken stream as SyntaxError.
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"the image in row {row} of {path} cannot be decoded ({error}); fetch the file again"
            ) from error
        advance(1)
