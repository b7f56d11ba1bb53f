"""How a batch of sequences is cut into pieces whose states fit the processor's cache."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

PIECE_BYTES = 1 << 20
"""States of one piece, in bytes: half of the level-two cache of two current cores."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Sequences ``first .. last`` at times ``start .. stop``; ``index`` counts pieces along time."""

    first: int
    last: int
    start: int
    stop: int
    index: int

    def rows(self, sequences: Tensor) -> Tensor:
        """This piece of a contiguous (batch, L, channels), as a matrix of one row per step; no copy."""
        return sequences[self.first : self.last, self.start : self.stop].flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """How a batch of sequences is cut: whole sequences together, or one sequence into equal times."""

    batch: int
    length: int
    sequences: int
    steps: int

    @classmethod
    def of(cls, batch: int, length: int, row_bytes: int) -> "Pieces":
        """Pieces of at most ``PIECE_BYTES``, all nearly the same size, for rows of so many bytes."""
        rows = max(1, PIECE_BYTES // row_bytes)
        if length <= rows:
            groups = -(-batch // (rows // length))
            return cls(batch=batch, length=length, sequences=-(-batch // groups), steps=length)
        count = -(-length // rows)
        return cls(batch=batch, length=length, sequences=1, steps=-(-length // count))

    @property
    def rows(self) -> int:
        """Rows of the largest piece."""
        return self.sequences * self.steps

    @property
    def per_sequence(self) -> int:
        """Pieces that a sequence is cut into along time."""
        return -(-self.length // self.steps)

    def in_time(self, *, reverse: bool) -> Iterator[Piece]:
        """All pieces; those of a sequence one after the other, from its first time on (``reverse``: last)."""
        order = range(self.per_sequence - 1, -1, -1) if reverse else range(self.per_sequence)
        for first in range(0, self.batch, self.sequences):
            last = min(first + self.sequences, self.batch)
            for index in order:
                start = index * self.steps
                stop = min(start + self.steps, self.length)
                yield Piece(first=first, last=last, start=start, stop=stop, index=index)


def kept_shape(keep: str, cut: Pieces, N: int) -> tuple[int, ...]:
    """Shape of what the forward pass over pieces keeps for the backward pass."""
    if keep == "states":
        return cut.batch, cut.length, 2 * N
    if keep == "checkpoints":
        return cut.batch, cut.per_sequence, 2 * N
    return (0,)
