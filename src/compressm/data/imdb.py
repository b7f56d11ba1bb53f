"""IMDB film reviews, character by character: their sentiment, or the next character.

The alphabet is what occurs at least 15 times in the training reviews; reviews are cut at 4096 characters for
classification, as in the Long Range Arena's text task.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from compressm.data.cache import cached_arrays
from compressm.data.characters import Alphabet, frequent_characters, windows
from compressm.data.encodings import OneHot
from compressm.data.hub import hub_files
from compressm.data.progress import progress_bar
from compressm.data.source import Source
from compressm.data.splits import VALIDATION_SEED, Array, Split, Splits, hold_out
from compressm.data.table import Columns, find_shards
from compressm.data.task import Task

REPOSITORY = "stanfordnlp/imdb"
LENGTH = 4096
WINDOW = 1024
MIN_FREQUENCY = 15
VOCAB_SIZE = 135
PAD_TO = 64


def load_imdb(source: Source) -> Splits:
    """Load the labelled reviews as sequences of characters, with a tenth of the training reviews held out.

    Raises:
        DataError: If a file is missing, damaged, or cannot be fetched.
        ModuleNotFoundError: If Parquet has to be read and ``compressm[data]`` is not installed.
    """
    shards = _shards(source)
    train, test = (_labelled(part, shards, source) for part in ("train", "test"))
    return Splits(*hold_out(train, seed=VALIDATION_SEED), test)


def load_imdb_text(source: Source) -> Splits:
    """Load the same reviews as streams of characters, in windows; the labels are not used.

    A tenth of the training reviews is held out, whole reviews at a time. Errors as in :func:`load_imdb`.
    """
    shards = _shards(source)
    parts: dict[str, Array] = {}
    for part in ("train", "test"):
        build = partial(_encode_stream, part, shards, source.progress)
        parts |= cached_arrays(f"imdb-text-{part}", _used(part, shards), build)
    return Splits(*(windows(parts[name], WINDOW, VOCAB_SIZE) for name in ("train", "validation", "test")))


def _labelled(part: str, shards: dict[str, list[Path]], source: Source) -> Split:
    build = partial(_encode_rows, part, shards, source.progress)
    arrays = cached_arrays(f"imdb-{part}", _used(part, shards), build)
    return Split(arrays["ids"], arrays["labels"], arrays["lengths"], encode=OneHot(VOCAB_SIZE), pad_to=PAD_TO)


def _encode_rows(part: str, shards: dict[str, list[Path]], progress: bool) -> dict[str, Array]:
    texts = _texts(shards[part])
    labels = [Columns(path, ("label",)).labels("label", 2) for path in shards[part]]
    with progress_bar(f"reading imdb {part}", len(texts), show=progress) as advance:
        ids, lengths = _alphabet(shards).rows(texts, LENGTH, advance)
    return {"ids": ids, "lengths": lengths, "labels": np.concatenate(labels)}


def _encode_stream(part: str, shards: dict[str, list[Path]], progress: bool) -> dict[str, Array]:
    texts, alphabet = _texts(shards[part]), _alphabet(shards)
    parts = {"test": texts}
    if part == "train":
        order = np.arange(len(texts))
        kept, held = hold_out(Split(order[:, None], order), seed=VALIDATION_SEED)
        parts = {
            "train": [texts[row] for row in kept.targets],
            "validation": [texts[row] for row in held.targets],
        }
    with progress_bar(f"reading imdb {part}", len(texts), show=progress) as advance:
        return {name: alphabet.stream(some, advance) for name, some in parts.items()}


def _alphabet(shards: dict[str, list[Path]]) -> Alphabet:
    return Alphabet(frequent_characters(_texts(shards["train"]), MIN_FREQUENCY), VOCAB_SIZE)


def _texts(paths: list[Path]) -> list[str]:
    return [text for path in paths for text in Columns(path, ("text",)).texts("text")]


def _used(part: str, shards: dict[str, list[Path]]) -> list[Path]:
    """The files that a part depends on: the alphabet is the training reviews'."""
    return shards["train"] if part == "train" else [*shards["train"], *shards["test"]]


def _shards(source: Source) -> dict[str, list[Path]]:
    parts = ("train", "test")
    if source.data_dir is not None:
        folder = source.data_dir
        return {part: find_shards(folder, part, subfolders=("imdb",)) for part in parts}
    names = {part: [f"plain_text/{part}-00000-of-00001.parquet"] for part in parts}
    return {part: hub_files(REPOSITORY, names[part], source) for part in parts}


_task = partial(
    Task,
    input_dim=VOCAB_SIZE,
    vocab_size=VOCAB_SIZE,
    origin="Large Movie Review Dataset: Maas, Daly, Pham, Huang, Ng, Potts, Learning Word Vectors for "
    f"Sentiment Analysis, ACL 2011; no explicit licence. Read from a data folder, or fetched from the hub "
    f"({REPOSITORY}).",
)
TASKS = (
    _task(
        name="imdb",
        num_classes=2,
        length=LENGTH,
        sizes=(22_500, 2_500, 25_000),
        description="IMDB film reviews read character by character: is the review positive?",
        reader=load_imdb,
    ),
    _task(
        name="imdb-text",
        kind="tokens",
        symbol="character",
        num_classes=VOCAB_SIZE,
        length=WINDOW,
        sizes=(29_165, 3_209, 31_611),
        description="IMDB film reviews as text: the next character, in windows of 1024.",
        reader=load_imdb_text,
    ),
)
