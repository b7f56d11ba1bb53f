"""Texts as rows of small integers, one for a character.

Id 0 is padding, or the end of a text in a stream of texts; id 1 any character that is not in the alphabet;
the alphabet's characters follow in the order of their code points.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from compressm.data.encodings import OneHot
from compressm.data.errors import DataError
from compressm.data.progress import Advance
from compressm.data.splits import Array, Split

END = 0
UNKNOWN = 1
RESERVED = 2
_AT_ONCE = 1000


def code_points(text: str) -> Array:
    """Return a text's characters as uint32 ``(length,)``."""
    # Lone surrogates occur in scraped text and are characters like others here.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def frequent_characters(texts: Sequence[str], minimum: int) -> Array:
    """Return the characters that occur at least ``minimum`` times in all texts together, as code points."""
    counts = np.zeros(sys.maxunicode + 1, np.int64)
    for start in range(0, len(texts), _AT_ONCE):
        found, times = np.unique(code_points("".join(texts[start : start + _AT_ONCE])), return_counts=True)
        counts[found] += times
    return np.flatnonzero(counts >= minimum).astype(np.uint32)


class Alphabet:
    """Ids of characters.

    Args:
        characters: Code points of the alphabet, each once.
        limit: Ids there may be, the reserved ones included; at most 256.

    Raises:
        DataError: If there are more.
    """

    def __init__(self, characters: Array, limit: int) -> None:
        if len(characters) + RESERVED > limit:
            raise DataError(
                f"the text has {len(characters)} different characters, {limit - RESERVED} are known to this "
                "task; it is not this task's file, or another version of it"
            )
        self._ids = np.full(sys.maxunicode + 1, UNKNOWN, np.uint8)
        self._ids[characters] = np.arange(RESERVED, RESERVED + len(characters))

    def encode(self, text: str) -> Array:
        """Return the ids of a text, uint8 ``(length,)``."""
        ids: Array = self._ids[code_points(text)]
        return ids

    def rows(self, texts: Sequence[str], length: int, advance: Advance) -> tuple[Array, Array]:
        """Return the beginnings of texts, uint8 ``(count, length)`` padded with 0, and their lengths."""
        ids, lengths = np.zeros((len(texts), length), np.uint8), np.empty(len(texts), np.int32)
        for row, text in enumerate(texts):
            encoded = self.encode(text[:length])
            lengths[row] = len(encoded)
            ids[row, : len(encoded)] = encoded
            advance(1)
        return ids, lengths

    def stream(self, texts: Sequence[str], advance: Advance) -> Array:
        """Return texts one after the other, each with an end, uint8 ``(characters + count,)``."""
        parts = []
        for text in texts:
            parts += [self.encode(text), np.array([END], np.uint8)]
            advance(1)
        return np.concatenate(parts)


def windows(stream: Array, length: int, vocab_size: int) -> Split:
    """Cut a stream of ids into windows; each step's target is the id that follows.

    The windows follow one another without overlap; inputs and targets share the stream's memory.

    Raises:
        DataError: If the stream is shorter than one window and its last target.
    """
    count = (len(stream) - 1) // length
    if count < 1:
        raise DataError(
            f"a text of {len(stream)} characters is shorter than one window of {length} and one more"
        )
    inputs = stream[: count * length].reshape(count, length)
    targets = stream[1 : count * length + 1].reshape(count, length)
    return Split(inputs, targets, encode=OneHot(vocab_size))
