"""What the programs of a Mamba layer depend on."""

from typing import NamedTuple

import torch

from compressm.scan.runtime.program import Word
from compressm.scan.runtime.widths import LANES
from compressm.scan.selective.layout import STEPS, chunks_of

LOW_RANK = 8
"""Rank of the time steps up to which the recurrence makes them itself, instead of reading a product."""

_WIDE_STEPS = 128
_FLOAT = 4


class Sizes(NamedTuple):
    """What a program depends on.

    Args:
        L: Steps.
        H: Channels outside.
        d: Channels inside, whole vectors of them.
        rank: Of the time steps.
        N: States of a channel.
        K: Steps that the convolution sees.
        dtype: Of what has a row for each step, float32 or bfloat16.
        narrowed: Whether inputs are float32 and rows are not.
        biased: Whether the convolution has a bias.
        windowed: Whether there are inputs before the first.
        normed: Whether inputs, of float32, pass a norm first, and are added to the outputs.
    """

    L: int
    H: int
    d: int
    rank: int
    N: int
    K: int
    dtype: torch.dtype
    narrowed: bool
    biased: bool
    windowed: bool
    normed: bool

    @property
    def half(self) -> bool:
        """Whether rows are bfloat16."""
        return self.dtype == torch.bfloat16

    @property
    def number(self) -> int:
        """Bytes of a number of a row."""
        return self.dtype.itemsize

    @property
    def chosen(self) -> int:
        """Numbers that inputs choose at each step."""
        return self.rank + 2 * self.N

    @property
    def low(self) -> int:
        """Rank of the time steps if the recurrence makes them, else 0."""
        return self.rank if self.rank <= LOW_RANK else 0

    @property
    def wide_steps(self) -> int:
        """Rows that are float32 at a time on their way to bfloat16."""
        return min(self.L, _WIDE_STEPS)

    @property
    def padded(self) -> int:
        """Steps of whole chunks."""
        return chunks_of(self.L) * STEPS

    @property
    def given_bytes(self) -> int:
        """Of a sequence's inputs."""
        return self.L * self.H * (_FLOAT if self.narrowed else self.number)

    @property
    def out_number(self) -> int:
        """Bytes of a number of the outputs."""
        return _FLOAT if self.normed else self.number

    @property
    def past(self) -> int:
        """Bytes of a sequence's window."""
        return self.d * (self.K - 1) * _FLOAT

    @property
    def carried(self) -> int:
        """Floats of a sequence's state."""
        return self.N * self.d

    @property
    def strides(self) -> list[Word]:
        """Of B, C and z, from sequence to sequence, where there is one, and from step to step."""
        return [0, self.chosen, 0, self.chosen, 0, 2 * self.d]

    @property
    def recurrence(self) -> list[Word]:
        """Batch, L, N and blocks of channels, for one sequence."""
        return [1, self.L, self.N, self.d // LANES]

    @property
    def convolution(self) -> list[Word]:
        """What both of its kernels begin with: one sequence in one group, through SiLU, of rows of xz."""
        flags = [int(self.biased), int(self.windowed)]
        return [1, self.L, self.d, self.K, 1, 1, 0, 2 * self.d, *flags]
