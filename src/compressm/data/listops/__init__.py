"""ListOps of the Long Range Arena: the value of a long nested expression.

Files ``basic_train.tsv``, ``basic_val.tsv`` and ``basic_test.tsv`` with the columns Source and Target, the
released ones or those of :func:`generate`; brackets that only group ("(", ")") are left out.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from compressm.data.cache import cached_arrays
from compressm.data.encodings import OneHot
from compressm.data.errors import DataError
from compressm.data.generated import check_files, find_parts
from compressm.data.listops.generate import FILES, HEADER, generate
from compressm.data.listops.grammar import LENGTH, SHORT, VOCABULARY
from compressm.data.progress import progress_bar
from compressm.data.source import Source
from compressm.data.splits import Array, Split, Splits
from compressm.data.task import Task

# Id 0 is padding.
VOCAB_SIZE = len(VOCABULARY) + 1
PAD_TO = 64
_IDS = {token: number for number, token in enumerate(VOCABULARY, start=1)}


def load_listops(source: Source, *, name: str = "listops", length: int = LENGTH) -> Splits:
    """Load the expressions as token ids and their values 0-9 as classes.

    Args:
        source: Where the files are.
        name: Of the task.
        length: Tokens of an expression at most.

    Raises:
        DataError: If a file is missing or damaged.
    """
    paths = find_parts(source, name, FILES)
    return Splits(*(_read(path, source, name, length) for path in paths))


def _read(path: Path, source: Source, name: str, length: int) -> Split:
    arrays = cached_arrays(f"{name}-{path.stem}", [path], partial(_parse, path, length, source.progress))
    return Split(arrays["ids"], arrays["labels"], arrays["lengths"], encode=OneHot(VOCAB_SIZE), pad_to=PAD_TO)


def _parse(path: Path, length: int, progress: bool) -> dict[str, Array]:
    check_files([path])
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path} is empty or damaged ({error}); generate it again") from error
    if header != HEADER or not lines:
        raise DataError(f"{path} must start with {HEADER!r} and have rows, it starts with {header[:40]!r}")
    ids = np.zeros((len(lines), length), np.uint8)
    lengths, labels = np.empty(len(lines), np.int32), np.empty(len(lines), np.int64)
    with progress_bar(f"reading {path.name}", len(lines), show=progress) as advance:
        for row, line in enumerate(lines):
            lengths[row], labels[row] = _parse_line(path, row, line, ids[row])
            advance(1)
    return {"ids": ids, "lengths": lengths, "labels": labels}


def _parse_line(path: Path, row: int, line: str, out: Array) -> tuple[int, int]:
    expression, _, value = line.partition("\t")
    tokens = expression.replace("(", " ").replace(")", " ").split()
    if not 1 <= len(tokens) <= len(out) or value not in tuple("0123456789"):
        raise DataError(
            f"line {row + 2} of {path} has {len(tokens)} tokens and the value {value[:20]!r}, expected "
            f"1..{len(out)} tokens and a digit; it is not this task's file"
        )
    try:
        out[: len(tokens)] = [_IDS[token] for token in tokens]
    except KeyError as error:
        raise DataError(f"line {row + 2} of {path} has the unknown token {error}") from error
    return len(tokens), int(value)


TASKS = (
    Task(
        name="listops",
        input_dim=VOCAB_SIZE,
        num_classes=10,
        vocab_size=VOCAB_SIZE,
        length=LENGTH,
        sizes=(96_000, 2_000, 2_000),
        description="ListOps: the value of a nested expression of MIN, MAX, MED and SM (sum modulo 10).",
        origin="Generated (compressm data generate listops) to the specification of the Long Range Arena: "
        "Tay and others, ICLR 2021, after Nangia and Bowman, 2018; the released files are read as well.",
        reader=load_listops,
        generator=generate,
        needs_files=True,
    ),
    Task(
        name="listops-short",
        input_dim=VOCAB_SIZE,
        num_classes=10,
        vocab_size=VOCAB_SIZE,
        length=SHORT.longer - 1,
        sizes=(96_000, 2_000, 2_000),
        description=f"ListOps with expressions of {SHORT.shorter + 1} to {SHORT.longer - 1} tokens.",
        origin="Generated (compressm data generate listops-short) by the grammar of listops.",
        reader=partial(load_listops, name="listops-short", length=SHORT.longer - 1),
        generator=partial(generate, name="listops-short", limits=SHORT),
        needs_files=True,
    ),
)
