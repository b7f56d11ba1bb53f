"""Tiny Shakespeare: the next character of the collected plays."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from compressm.data.cache import cached_arrays
from compressm.data.characters import RESERVED, Alphabet, frequent_characters, windows
from compressm.data.download import Patience, download
from compressm.data.errors import DataError
from compressm.data.source import Source
from compressm.data.splits import Array, Splits
from compressm.data.task import Task
from compressm.scan.runtime.cache import cache_directory

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
WINDOW = 256
VOCAB_SIZE = 65 + RESERVED
# Contiguous, so that no window of one part continues in another but at the two seams.
TRAIN, VALIDATION = 0.9, 0.05


def load_shakespeare(source: Source) -> Splits:
    """Load the plays in windows of characters: the first 90 % for training, 5 % each for the other parts.

    Raises:
        DataError: If the file is missing, not text, or cannot be fetched.
    """
    path = _find(source)
    ids = cached_arrays("tinyshakespeare", [path], partial(_encode, path))["ids"]
    ends = round(TRAIN * len(ids)), round((TRAIN + VALIDATION) * len(ids))
    parts = ids[: ends[0]], ids[ends[0] : ends[1]], ids[ends[1] :]
    return Splits(*(windows(part, WINDOW, VOCAB_SIZE) for part in parts))


def _encode(path: Path) -> dict[str, Array]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged ({error}); fetch it again") from error
    return {"ids": Alphabet(frequent_characters([text], 1), VOCAB_SIZE).encode(text)}


def _find(source: Source) -> Path:
    if source.data_dir is not None:
        places = [source.data_dir / "tinyshakespeare" / "input.txt", source.data_dir / "input.txt"]
        for place in places:
            if place.is_file():
                return place
        raise DataError(
            f"no file {places[0]} or {places[1]}; give --data-dir the folder that holds input.txt, "
            "or leave it out to download it"
        )
    path = cache_directory() / "files" / "tinyshakespeare" / "input.txt"
    if not path.is_file():
        if not source.download:
            raise DataError(
                f"{path} is not there and downloads are switched off; allow them, or give a folder with "
                "input.txt as --data-dir"
            )
        download(URL, path, patience=Patience(), progress=source.progress)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise DataError(f"{path} is not the text it should be (sha256 differs); delete it and fetch it again")
    return path


TASKS = (
    Task(
        name="shakespeare",
        kind="tokens",
        symbol="character",
        input_dim=VOCAB_SIZE,
        num_classes=VOCAB_SIZE,
        vocab_size=VOCAB_SIZE,
        length=WINDOW,
        sizes=(3_921, 217, 217),
        description="Tiny Shakespeare: the next character of the plays, in windows of 256.",
        origin="Text of William Shakespeare (public domain), compiled by A. Karpathy for char-rnn (2015). "
        "Read from a data folder, or fetched from GitHub.",
        reader=load_shakespeare,
    ),
)
