"""Weights packed once for many products of a few hundred rows each."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from compressm.scan.runtime.blas import packed_bytes
from compressm.scan.runtime.compiled import Kernel
from compressm.scan.runtime.team import run_kernel

_PACK = Kernel("compressm.scan.runtime.packing_kernels", "pack_weights")
_WORTHWHILE = 1 << 18
"""Weights from which on packing pays; products lay out fewer in no time."""


class Weights(NamedTuple):
    """A right operand of products: ``inner`` by ``columns`` numbers; ``turned``, memory has the transpose."""

    stored: Tensor
    inner: int
    columns: int
    turned: bool


def packed_weights(rows: int, *given: Weights) -> list[Tensor | None]:
    """The weights as products of so many rows read them, or None where that is no gain.

    Only float32 is packed, and where PyTorch has MKL, on a processor of its maker: elsewhere it was not
    measured.
    """
    packed = [_room(rows, weights) for weights in given]
    threads = torch.get_num_threads()
    words = []
    for weights, to in zip(given, packed, strict=True):
        if to is not None:
            stored, inner, columns, turned = weights
            words += [stored.data_ptr(), inner, columns, int(turned), rows, to.data_ptr()]
    if words:
        room = torch.empty(threads, 10, dtype=torch.int64, device="cpu")
        run_kernel(_PACK, [len(words) // 6, room.data_ptr(), *words], threads)
    return packed


def _room(rows: int, weights: Weights) -> Tensor | None:
    stored, inner, columns, _ = weights
    if stored.dtype != torch.float32 or inner * columns < _WORTHWHILE or not _processor_packs():
        return None
    size = packed_bytes(columns, rows, inner)
    return None if size is None else stored.new_empty(size, dtype=torch.uint8)


@cache
def _processor_packs() -> bool:
    try:
        from llvmlite.binding import get_host_cpu_name
    except ImportError:
        return False
    return not str(get_host_cpu_name()).startswith(("znver", "bdver", "btver", "amd"))
