"""ACL Anthology Network of the Long Range Arena: does one paper cite the other?

Read from the released files ``new_aan_pairs.{train,eval,test}.tsv``: label, two identifiers, two texts, no
header. Characters are the printable ones of ASCII; all others share an id.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from compressm.data.cache import cached_arrays
from compressm.data.characters import RESERVED, Alphabet
from compressm.data.encodings import OneHot
from compressm.data.errors import DataError
from compressm.data.progress import progress_bar
from compressm.data.source import Source
from compressm.data.splits import Array, Split, Splits
from compressm.data.task import Task

FILES = tuple(f"new_aan_pairs.{part}.tsv" for part in ("train", "eval", "test"))
LENGTH = 4000
PRINTABLE = np.arange(32, 127, dtype=np.uint32)
VOCAB_SIZE = len(PRINTABLE) + RESERVED
PAD_TO = 64
_LABELS = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}
# Whole papers stand in one field; the csv module's own limit is 128 KiB.
_FIELD_LIMIT = 1 << 26


def load_aan(source: Source) -> Splits:
    """Load pairs of texts ``(count, 2, 4000)``, cut or padded, with their lengths ``(count, 2)``.

    Raises:
        DataError: If a file is missing or damaged.
    """
    if source.data_dir is None:
        raise DataError(
            f"aan is not on the hub; give --data-dir a folder with aan/{FILES[0]}, {FILES[1]} and {FILES[2]} "
            "from the Long Range Arena's release"
        )
    return Splits(*(_read(source.data_dir, name, source.progress) for name in FILES))


def _read(folder: Path, name: str, progress: bool) -> Split:
    places = [folder / "aan" / name, folder / "tsv_data" / name, folder / name]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        looked = " or ".join(map(str, places))
        raise DataError(f"no file {looked}; give --data-dir the folder that holds the released files")
    arrays = cached_arrays(f"aan-{name.split('.')[1]}", [path], partial(_parse, path, progress))
    return Split(arrays["ids"], arrays["labels"], arrays["lengths"], encode=OneHot(VOCAB_SIZE), pad_to=PAD_TO)


def _parse(path: Path, progress: bool) -> dict[str, Array]:
    alphabet = Alphabet(PRINTABLE, VOCAB_SIZE)
    ids, lengths, labels = [], [], []
    with progress_bar(f"reading {path.name}", None, show=progress) as advance:
        for label, texts in _pairs(path):
            rows, counts = alphabet.rows(texts, LENGTH, lambda _: None)
            ids.append(rows)
            lengths.append(counts)
            labels.append(label)
            advance(1)
    if not labels:
        raise DataError(f"{path} has no rows; fetch it again")
    return {"ids": np.stack(ids), "lengths": np.stack(lengths), "labels": np.array(labels)}


def _pairs(path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file, delimiter="\t"), start=1):
                if len(row) != 5 or row[0] not in _LABELS or not row[3] or not row[4]:
                    raise DataError(
                        f"row {number} of {path} has {len(row)} fields and the label {row[:1]}, expected "
                        "0.0 or 1.0, two identifiers and two texts; it is not this task's file"
                    )
                yield _LABELS[row[0]], row[3:]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is damaged ({error}); fetch it again") from error


TASKS = (
    Task(
        name="aan",
        kind="pairs",
        input_dim=VOCAB_SIZE,
        num_classes=2,
        vocab_size=VOCAB_SIZE,
        length=LENGTH,
        sizes=(147_086, 18_090, 17_437),
        description="Retrieval: does one of two papers, read character by character, cite the other?",
        origin="ACL Anthology Network: Radev and others, 2013, in the pairs of the Long Range Arena: Tay and "
        "others, ICLR 2021. Read from a data folder.",
        reader=load_aan,
        needs_files=True,
    ),
)
