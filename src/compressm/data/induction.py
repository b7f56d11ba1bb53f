"""Induction: what followed the mark when it stood here for the first time?

Symbols are drawn at random. A mark among them is followed by one of them; wherever the mark comes again, that
symbol is the answer (Olsson and others, arXiv 2209.11895, on induction heads; Gu and Dao, arXiv 2312.00752,
section 4.1). One symbol is all there is to hold, but the model must know what to hold.
"""

from __future__ import annotations

import numpy as np

from compressm.data.encodings import OneHot
from compressm.data.splits import IGNORE, Split, Splits
from compressm.data.task import Sizes, Task

SYMBOLS = 16
MARK = SYMBOLS
VOCAB_SIZE = SYMBOLS + 1
LENGTH = 64
# The first mark stands before step 16; from there on it comes 8 times more.
EARLY = 16
QUERIES = 8
SIZES = (50_000, 1_000, 1_000)
SEED = 1729


def make_induction(*, seed: int = SEED, sizes: Sizes = SIZES) -> Splits:
    """Make the three parts, each from a random stream of its own; the same arrays for the same seed."""
    parts = (_split(count, np.random.RandomState([seed, part])) for part, count in enumerate(sizes))
    return Splits(*parts)


def _split(count: int, random: np.random.RandomState) -> Split:
    rows = np.arange(count)
    inputs = random.randint(SYMBOLS, size=(count, LENGTH))
    # At the latest in step EARLY - 2, so that what follows it is no query.
    first = random.randint(EARLY - 1, size=count)
    answers = inputs[rows, first + 1]
    queries = EARLY + random.rand(count, LENGTH - EARLY).argsort(axis=1)[:, :QUERIES]
    targets = np.full((count, LENGTH), IGNORE)
    inputs[rows, first] = MARK
    np.put_along_axis(inputs, queries, MARK, axis=1)
    np.put_along_axis(targets, queries, answers[:, None], axis=1)
    return Split(inputs.astype(np.uint8), targets.astype(np.int16), encode=OneHot(VOCAB_SIZE))


TASKS = (
    Task(
        name="induction",
        kind="tokens",
        input_dim=VOCAB_SIZE,
        num_classes=VOCAB_SIZE,
        vocab_size=VOCAB_SIZE,
        masked=True,
        length=LENGTH,
        sizes=SIZES,
        description="Induction: the symbol that followed a mark when it came for the first time.",
        origin="Made in memory, after the idea of Olsson and others, arXiv 2209.11895.",
        reader=lambda _: make_induction(),
    ),
)
