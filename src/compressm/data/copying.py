"""Selective copying: some symbols among many blanks; repeat them, in order, when asked to.

The places of the symbols are random, so that a model must choose by content what to hold (Gu and Dao, arXiv
2312.00752, section 4.1); a linear time-invariant layer cannot.
"""

from __future__ import annotations

import numpy as np

from compressm.data.encodings import OneHot
from compressm.data.splits import IGNORE, Split, Splits
from compressm.data.task import Sizes, Task

BLANK, ASK = 0, 1
SYMBOLS = 8
VOCAB_SIZE = 2 + SYMBOLS
COPIED = 8
LENGTH = 64
SIZES = (50_000, 1_000, 1_000)
SEED = 2357


def make_copying(*, seed: int = SEED, sizes: Sizes = SIZES) -> Splits:
    """Make the three parts, each from a random stream of its own; the same arrays for the same seed."""
    parts = (_split(count, np.random.RandomState([seed, part])) for part, count in enumerate(sizes))
    return Splits(*parts)


def _split(count: int, random: np.random.RandomState) -> Split:
    asked = LENGTH - COPIED
    symbols = 2 + random.randint(SYMBOLS, size=(count, COPIED))
    places = np.sort(random.rand(count, asked).argsort(axis=1)[:, :COPIED], axis=1)
    inputs, targets = np.full((count, LENGTH), BLANK), np.full((count, LENGTH), IGNORE)
    np.put_along_axis(inputs, places, symbols, axis=1)
    inputs[:, asked:], targets[:, asked:] = ASK, symbols
    return Split(inputs.astype(np.uint8), targets.astype(np.int16), encode=OneHot(VOCAB_SIZE))


TASKS = (
    Task(
        name="selective-copying",
        kind="tokens",
        input_dim=VOCAB_SIZE,
        num_classes=VOCAB_SIZE,
        vocab_size=VOCAB_SIZE,
        masked=True,
        length=LENGTH,
        sizes=SIZES,
        description=f"Selective copying: {COPIED} symbols that stood among blanks, in their order.",
        origin="Made in memory, after the idea of Gu and Dao, arXiv 2312.00752.",
        reader=lambda _: make_copying(),
    ),
)
