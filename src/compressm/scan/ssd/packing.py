"""Operands and matrix states as the kernels of CPUs want them: rows of value channels in vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.scan.runtime import Kernel
from compressm.scan.runtime.widths import DOUBLE, HALF, LANES
from compressm.scan.ssd.recurrent_layout import blocks_of, chunks_of, groups_of, width_of

SMALL = 1 << 16  # elements of states times steps: less is done before a second thread has started


def kernels_by_width(module: str, name: str) -> dict[int, Kernel]:
    """The kernels ``name`` in ``module`` for rows of each width."""
    endings = {DOUBLE: "doubles", LANES: "vectors", HALF: "parts"}
    return {width: Kernel(module, f"{name}_{ending}") for width, ending in endings.items()}


def workers_for(q: Tensor, V: int) -> int:
    """Threads that the kernels' work is worth, and that it can be cut for."""
    places = q.shape[0] * q.shape[2]
    return 1 if q.numel() * V < SMALL else min(torch.get_num_threads(), places * groups_of(places, V))


def kept_size(q: Tensor, V: int) -> int:
    """Elements of the states before each chunk, which backward passes start from."""
    batch, L, heads, K = q.shape
    return batch * heads * chunks_of(L) * K * blocks_of(V) * width_of(V)


def sum_groups(parts: Tensor) -> Tensor:
    """A gradient that groups of blocks made apart."""
    return parts[0] if len(parts) == 1 else parts.sum(0)


def strides_of(x: Tensor) -> list[int]:
    """From sequence to sequence, step to step, head to head."""
    return list(x.stride()[:3])


def rows_of(x: Tensor) -> Tensor:
    """The same numbers with channels side by side; heads, steps and sequences may lie anywhere."""
    return x if x.stride(3) == 1 else x.contiguous()


def factor(scale: float) -> Tensor:
    """A number where kernels find it."""
    return torch.tensor([scale], dtype=torch.float32, device="cpu")


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
