"""Columns of Parquet files in the layout of the Hugging Face hub.

pyarrow is imported when a file is read, so the package works without it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressm.data.errors import DataError
from compressm.data.splits import Array

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")


DOWNLOAD = "or leave it out to download them"


def find_shards(
    data_dir: Path, part: str, *, subfolders: Sequence[str], otherwise: str = DOWNLOAD
) -> list[Path]:
    """Find the files ``PART-00000-of-00001.parquet`` of one part of a data set.

    Args:
        data_dir: The data set's own folder, or a folder that holds it in one of ``subfolders``.
        part: "train", "validation" or "test".
        subfolders: Names looked for inside ``data_dir``, before ``data_dir`` itself.
        otherwise: What a user without the files can do.

    Raises:
        DataError: If there is no such file, or one of several shards is missing.
    """
    places = [*(data_dir / name for name in subfolders), data_dir]
    for place in places:
        found = sorted(place.glob(f"{part}-*.parquet"))
        if found:
            return _complete(found, place, part)
    looked = " or ".join(str(place / f"{part}-*.parquet") for place in places)
    raise DataError(f"no file {looked}; give --data-dir the folder that holds the Parquet files, {otherwise}")


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


class Columns:
    """Some columns of one Parquet file.

    Args:
        path: The file.
        names: Columns that are needed; others are not read.

    Raises:
        DataError: If the file is missing, damaged, empty, or lacks a column.
        ModuleNotFoundError: If pyarrow is not installed.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError as error:
            raise missing_extra(path, error) from error
        self.path = path
        self._damage = (pyarrow.ArrowException, OSError, TypeError)
        try:
            with parquet.ParquetFile(path) as file:
                absent = sorted(set(names) - set(file.schema_arrow.names))
                if absent:
                    raise DataError(
                        f"{path} has no column {' or '.join(absent)}, only "
                        f"{', '.join(file.schema_arrow.names)}; it is not this task's file"
                    )
                self._table: Any = file.read(columns=list(names))
        except FileNotFoundError as error:
            raise DataError(f"no file {path}; give --data-dir a folder that holds it") from error
        except self._damage as error:
            raise self._damaged(error) from error

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def files(self, name: str) -> list[bytes | None]:
        """Return the bytes of a column of files, ``struct<bytes, path>``."""
        import pyarrow

        kind = self._table.schema.field(name).type
        if not pyarrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
            raise DataError(f"column {name} of {self.path} is {kind}, expected struct<bytes, path>")
        encoded: list[bytes | None] = self._table.column(name).combine_chunks().field("bytes").to_pylist()
        return encoded

    def texts(self, name: str) -> list[str]:
        """Return a column of non-empty texts."""
        import pyarrow

        kind = self._table.schema.field(name).type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise DataError(f"column {name} of {self.path} is {kind}, expected string")
        texts: list[str] = self._table.column(name).to_pylist()
        for row, text in enumerate(texts):
            if not text:
                raise DataError(f"row {row} of {self.path} has no {name}; fetch the file again")
        return texts

    def labels(self, name: str, num_classes: int) -> Array:
        """Return a column of classes 0..num_classes-1 as int64."""
        labels = self.integers(name)
        if not labels.size:
            raise DataError(f"{self.path} has no rows; fetch it again")
        if not 0 <= labels.min() <= labels.max() < num_classes:
            raise DataError(
                f"{self.path} has labels {labels.min()}..{labels.max()}, expected 0..{num_classes - 1}; "
                "it is not this task's file"
            )
        return labels

    def integers(self, name: str) -> Array:
        """Return a column of integers as int64."""
        try:
            values: Array = self._table.column(name).to_numpy().astype(np.int64, casting="same_kind")
        except self._damage as error:
            raise self._damaged(error) from error
        return values

    def _damaged(self, error: BaseException) -> DataError:
        return DataError(
            f"{self.path} is damaged or not the hub's layout ({error}); delete it and fetch it again"
        )


def missing_extra(path: Path, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Say which package reading ``path`` needs, and how it is installed."""
    package: Any = {"PIL": "pillow"}.get(error.name or "", error.name)
    return ModuleNotFoundError(
        f"reading {path} needs {package}; install it with: pip install 'compressm[data]'", name=error.name
    )
