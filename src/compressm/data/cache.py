"""Decoded arrays kept on disk between runs, as memory-mapped ``.npy`` files.

An entry is a folder named by the checksum of the files it was made from, so a changed source is read anew.
It is written under a temporary name and then renamed: it is there whole or not at all. Its manifest holds
the checksum of every array; an entry that does not match is rebuilt.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from compressm.data.errors import DataError
from compressm.data.splits import Array
from compressm.scan.runtime.cache import cache_directory

VARIABLE = "COMPRESSM_CACHE_DIR"
FORMAT = 1
_MANIFEST = "manifest.json"


def cached_arrays(
    name: str, sources: Sequence[Path], build: Callable[[], dict[str, Array]]
) -> dict[str, Array]:
    """Return what ``build`` makes of the source files, from the cache if it is there.

    Without a writable cache folder this builds every time, and says so once.

    Args:
        name: Start of the entry's name, for people who look into the folder.
        sources: The files ``build`` reads; their sizes and contents are the key.
        build: Makes the arrays.

    Raises:
        DataError: If a source cannot be read.
    """
    entry = cache_directory() / "arrays" / f"{name}-{_key(sources)}"
    if (kept := _open(entry)) is not None:
        return kept
    arrays = build()
    try:
        _store(entry, arrays)
    except OSError as error:
        _say_once(
            f"cannot write the cache {cache_directory()} ({error}): data is decoded anew in every run; "
            f"set {VARIABLE} to a writable folder"
        )
    return arrays


def _key(sources: Sequence[Path]) -> str:
    digest = hashlib.sha256(f"format {FORMAT}".encode())
    for path in sources:
        try:
            digest.update(f" {path.stat().st_size} {_sha256(path)}".encode())
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; check the file and its folder") from error
    return digest.hexdigest()[:24]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(entry: Path) -> dict[str, Array] | None:
    if not entry.is_dir():
        return None
    try:
        checksums: dict[str, str] = json.loads((entry / _MANIFEST).read_text(encoding="utf-8"))
        paths = {name: entry / f"{name}.npy" for name in checksums}
        damaged = [name for name, path in paths.items() if _sha256(path) != checksums[name]]
        if not damaged:
            # As plain arrays: the memmap subclass makes every indexing slower.
            return {
                name: np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
                for name, path in paths.items()
            }
        reason = f"{damaged[0]}.npy does not match its checksum"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = str(error)
    warnings.warn(f"the cache {entry} is damaged ({reason}) and is built anew", RuntimeWarning, stacklevel=3)
    return None


def _store(entry: Path, arrays: dict[str, Array]) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=entry.parent, prefix=".unfinished-"))
    try:
        checksums = {}
        for name, array in arrays.items():
            path = temporary / f"{name}.npy"
            np.save(path, array, allow_pickle=False)
            checksums[name] = _sha256(path)
        (temporary / _MANIFEST).write_text(json.dumps(checksums, indent=1), encoding="utf-8")
        # Only a damaged entry can be in the way, or that of a process that was quicker: both are replaceable.
        shutil.rmtree(entry, ignore_errors=True)
        temporary.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@functools.cache
def _say_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
