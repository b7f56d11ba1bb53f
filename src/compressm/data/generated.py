"""Folders of files that the project makes itself: whole or not there, with checksums and their recipe."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compressm.data.errors import DataError
from compressm.data.source import Source
from compressm.data.task import Recipe

MANIFEST = "manifest.json"


@contextmanager
def new_folder(folder: Path, recipe: Recipe) -> Iterator[Path]:
    """Give a temporary folder that becomes ``folder``, with a manifest, once the body has filled it.

    Raises:
        DataError: If the folder exists already or cannot be written.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already; choose another --out, or delete it first")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unfinished-"))
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error}); choose another --out") from error
    try:
        yield temporary
        checksums = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        manifest = {"sizes": recipe.sizes, "seed": recipe.seed, "sha256": checksums}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        # mkdtemp keeps others out, a data set may be read by all.
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error}); choose another --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_files(paths: Sequence[Path]) -> None:
    """Compare files with the checksums in the manifest beside them; files from elsewhere have none.

    Raises:
        DataError: If a file is not the one that was written, or the manifest cannot be read.
    """
    for path in paths:
        manifest = path.with_name(MANIFEST)
        if not manifest.is_file():
            continue
        try:
            expected = json.loads(manifest.read_text(encoding="utf-8"))["sha256"].get(path.name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{manifest} is damaged ({error}); generate the data again") from error
        if expected != _sha256(path):
            raise DataError(f"{path} does not match its checksum in {manifest}; generate the data again")


def find_parts(source: Source, name: str, files: Sequence[str]) -> list[Path]:
    """Find a generated (or released) data set's files in ``data_dir / name`` or ``data_dir``.

    Raises:
        DataError: If no folder is given or a file is missing; the remedy says how to make them.
    """
    remedy = f"make them with: compressm data generate {name} --out DIR, then give --data-dir DIR"
    if source.data_dir is None:
        raise DataError(f"{name} needs files that are not on the hub; {remedy}")
    places = [source.data_dir / name, source.data_dir]
    place = next((place for place in places if (place / files[0]).is_file()), places[0])
    for file in files:
        if not (place / file).is_file():
            raise DataError(f"no file {place / file}; {remedy}")
    return [place / file for file in files]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
