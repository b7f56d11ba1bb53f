"""Operands and matrix states as the kernels of CPUs want them: rows of value channels in vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.scan.ssd.recurrent_layout import blocks_of, width_of


def strides_of(x: Tensor) -> list[int]:
    """From sequence to sequence, step to step, head to head."""
    return list(x.stride()[:3])


def rows_of(x: Tensor) -> Tensor:
    """The same numbers with channels side by side; heads, steps and sequences may lie anywhere."""
    return x if x.stride(3) == 1 else x.contiguous()


def factor(scale: float) -> Tensor:
    """A number where kernels find it."""
    return torch.tensor([scale], dtype=torch.float32)


def pad(x: Tensor) -> Tensor:
    """Zeros appended to the last axis up to whole vectors; contiguous."""
    missing = -x.shape[-1] % width_of(x.shape[-1])
    return F.pad(x, (0, missing)).contiguous() if missing else x.contiguous()


def pack(state: Tensor | None, like: Tensor, V: int) -> Tensor:
    """A copy of a state (batch, heads, K, V) as (batch, heads, blocks, K, width); zero if None."""
    (batch, _, heads, K), blocks, width = like.shape, blocks_of(V), width_of(V)
    if state is None:
        return like.new_zeros(batch, heads, blocks, K, width)
    by_block = pad(state).view(batch, heads, K, blocks, width).transpose(2, 3)
    return by_block.clone(memory_format=torch.contiguous_format)


def unpack(packed: Tensor, V: int) -> Tensor:
    """What :func:`pack` makes, back; contiguous."""
    return packed.transpose(2, 3).flatten(3)[..., :V].clone(memory_format=torch.contiguous_format)
