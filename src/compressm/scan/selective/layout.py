"""How operands lie in memory for the kernels: sizes that the kernels and their callers share."""

import torch
from torch import Tensor

from compressm.scan.runtime.widths import LANES

STEPS = 32
"""Steps of a chunk: what a chunk needs (under 40 KiB) fits the first-level cache."""

ITEMS = 16
"""Parts that the work of the backward pass is cut into at least, if there are so many blocks of channels."""


def blocks_of(d: int) -> int:
    """Vectors that hold d channels."""
    return -(-d // LANES)


def chunks_of(L: int) -> int:
    """Chunks that hold L steps."""
    return -(-L // STEPS)


def groups_of(batch: int, d: int) -> int:
    """Groups of blocks of channels whose gradients of B and C are summed apart.

    Depends on shapes alone: the number of threads must not change the order of a sum.
    """
    return min(blocks_of(d), -(-ITEMS // batch))


def pad_channels(x: Tensor) -> Tensor:
    """Zeros appended to the last axis up to whole vectors; contiguous."""
    missing = blocks_of(x.shape[-1]) * LANES - x.shape[-1]
    return torch.nn.functional.pad(x, (0, missing)).contiguous() if missing else x.contiguous()


def rows_of(x: Tensor) -> Tensor:
    """The same (batch, L, width) with its last axis contiguous: a slice of longer rows stays where it is."""
    return x if x.stride(2) == 1 else x.contiguous()


def pad_rows(x: Tensor) -> Tensor:
    """As :func:`pad_channels`, but a slice of longer rows that needs no zeros stays where it is."""
    return pad_channels(x) if x.shape[2] % LANES else rows_of(x)


def pack(x: Tensor) -> Tensor:
    """A contiguous (..., blocks, N, LANES) from (..., d, N): the kernels' order of states."""
    *lead, d, N = x.shape
    missing = blocks_of(d) * LANES - d
    padded = torch.nn.functional.pad(x, (0, 0, 0, missing)) if missing else x
    packed = padded.reshape(*lead, blocks_of(d), LANES, N).transpose(-1, -2)
    return packed.clone(memory_format=torch.contiguous_format)


def unpack(x: Tensor, d: int) -> Tensor:
    """A contiguous (..., d, N), from what :func:`pack` makes."""
    *lead, blocks, N, lanes = x.shape
    return x.transpose(-1, -2).reshape(*lead, blocks * lanes, N)[..., :d, :].contiguous()
