"""Labelled images in Parquet files, in the column layout of the Hugging Face hub.

An image is a struct ``{bytes, path}`` whose bytes are an image file (PNG, JPEG); a label is an integer.
pyarrow and Pillow are imported when a file is read, so the package works without them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressm.data.errors import DataError
from compressm.data.progress import Advance, progress_bar
from compressm.data.splits import Array

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")


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


def find_shards(data_dir: Path, part: str, *, subfolders: Sequence[str]) -> list[Path]:
    """Find the files ``PART-00000-of-00001.parquet`` of one part of a data set.

    Args:
        data_dir: The data set's own folder, or a folder that holds it in one of ``subfolders``.
        part: "train" or "test".
        subfolders: Names looked for inside ``data_dir``, before ``data_dir`` itself.

    Raises:
        DataError: If there is no such file, or one of several shards is missing.
    """
    places = [*(data_dir / name for name in subfolders), data_dir]
    for place in places:
        found = sorted(place.glob(f"{part}-*.parquet"))
        if found:
            return _complete(found, place, part)
    looked = " or ".join(str(place / f"{part}-*.parquet") for place in places)
    raise DataError(
        f"no file {looked}; give --data-dir the folder that holds the Parquet files, "
        "or leave it out to download them"
    )


def _complete(found: list[Path], place: Path, part: str) -> list[Path]:
    numbers = [(int(match[1]), int(match[2])) for path in found if (match := _SHARD.search(path.name))]
    total = numbers[0][1] if numbers else len(found)
    if numbers and numbers != [(index, total) for index in range(total)]:
        names = ", ".join(path.name for path in found)
        raise DataError(
            f"the shards of {part} in {place} are not the whole set of {total}: found {names}; "
            "add the missing files, or remove those of another version"
        )
    return found


def read_images(paths: Sequence[Path], layout: ImageLayout, *, progress: bool) -> dict[str, Array]:
    """Decode all images and labels of some shards, in order.

    Returns:
        ``images`` uint8 ``(count, height, width)`` (with a last axis of 3 for "RGB") and ``labels`` int64
        ``(count,)``.

    Raises:
        DataError: If a file or an image is damaged, or is not of the given layout.
        ModuleNotFoundError: If pyarrow or Pillow is not installed.
    """
    tables = [_read_table(path, layout) for path in paths]
    count = sum(len(labels) for _, labels in tables)
    channels = () if layout.mode == "L" else (3,)
    images = np.empty((count, layout.height, layout.width, *channels), dtype=np.uint8)
    start = 0
    with progress_bar(f"decoding {paths[0].name}", count, show=progress) as advance:
        for path, (encoded, labels) in zip(paths, tables, strict=True):
            _decode(path, encoded, layout, images[start : start + len(labels)], advance)
            start += len(labels)
    return {"images": images, "labels": np.concatenate([labels for _, labels in tables])}


def _read_table(path: Path, layout: ImageLayout) -> tuple[list[bytes | None], Array]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise _missing_extra(path, error) from error
    columns = [layout.image, layout.label]
    try:
        with parquet.ParquetFile(path) as file:
            absent = sorted(set(columns) - set(file.schema_arrow.names))
            if absent:
                raise DataError(
                    f"{path} has no column {' or '.join(absent)}, only {', '.join(file.schema_arrow.names)}; "
                    "it is not this task's file"
                )
            kind = file.schema_arrow.field(layout.image).type
            if not pyarrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
                raise DataError(f"column {layout.image} of {path} is {kind}, expected struct<bytes, path>")
            table = file.read(columns=columns)
        encoded = table.column(layout.image).combine_chunks().field("bytes").to_pylist()
        labels = table.column(layout.label).to_numpy().astype(np.int64, casting="same_kind")
    except FileNotFoundError as error:
        raise DataError(f"no file {path}; give --data-dir a folder that holds it") from error
    except (pyarrow.ArrowException, OSError, TypeError) as error:
        raise DataError(
            f"{path} is damaged or not the hub's layout ({error}); delete it and fetch it again"
        ) from error
    if not labels.size:
        raise DataError(f"{path} has no rows; fetch it again")
    if not 0 <= labels.min() <= labels.max() < layout.num_classes:
        raise DataError(
            f"{path} has labels {labels.min()}..{labels.max()}, expected 0..{layout.num_classes - 1}; "
            "it is not this task's file"
        )
    return encoded, labels


def _decode(
    path: Path, encoded: list[bytes | None], layout: ImageLayout, out: Array, advance: Advance
) -> None:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise _missing_extra(path, error) from error
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


def _missing_extra(path: Path, error: ModuleNotFoundError) -> ModuleNotFoundError:
    package: Any = {"PIL": "pillow"}.get(error.name or "", error.name)
    return ModuleNotFoundError(
        f"reading {path} needs {package}; install it with: pip install 'compressm[data]'", name=error.name
    )
