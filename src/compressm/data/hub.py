"""Files of a data set on the Hugging Face hub, kept in the cache folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from compressm.data.cache import VARIABLE
from compressm.data.download import Patience, download
from compressm.data.errors import DataError
from compressm.data.source import Source
from compressm.scan.runtime.cache import cache_directory

ENDPOINT_VARIABLE = "HF_ENDPOINT"
DEFAULT_ENDPOINT = "https://huggingface.co"


def hub_files(
    repository: str,
    names: Sequence[str],
    source: Source,
    *,
    revision: str = "main",
    patience: Patience | None = None,
) -> list[Path]:
    """Return local copies of some files of a data set, fetching those that are not there yet.

    The hub's address is https://huggingface.co, or the environment variable HF_ENDPOINT.

    Args:
        repository: "owner/name" of the data set.
        names: Paths inside it.
        source: Whether downloads are allowed, and whether they show progress.
        revision: Branch, tag or commit.
        patience: How often and how long to try.

    Raises:
        DataError: If a file cannot be fetched, or is not there and downloads are not allowed.
    """
    endpoint = (os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT).rstrip("/")
    folder = cache_directory() / "hub" / repository.replace("/", "--") / revision
    paths = [folder / name for name in names]
    for name, path in zip(names, paths, strict=True):
        if path.is_file():
            continue
        if not source.download:
            raise DataError(
                f"{path} is not there and downloads are switched off; allow them, or give a folder with "
                f"{Path(name).name} as --data-dir"
            )
        try:
            download(
                f"{endpoint}/datasets/{repository}/resolve/{revision}/{name}",
                path,
                patience=patience or Patience(),
                progress=source.progress,
            )
        except DataError as error:
            raise DataError(
                f"{error}; where there is no network, give a folder with {Path(name).name} as --data-dir "
                f"(the task smnist-mini needs no file); {VARIABLE} chooses where downloads are kept"
            ) from error
    return paths
