"""How matrices (M, H) are cut for Triton's kernels: into tiles, and parts of tiles below each other."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from compressm.scan.runtime.card import multiprocessors, on_card

TILE = 1024  # elements: two loads of 16 bytes in float32 for each thread of four warps
COLUMNS = 64  # of a tile at most, so that sums over rows have enough parts and rows still fill cache lines
PROGRAMS_PER_MULTIPROCESSOR = 8
WORTH_A_LAUNCH = 1 << 23
"""Elements from which a kernel of ours is quicker than PyTorch's several: measured on an H200, where a call
of ours takes about 0.1 ms of the host's time and each of PyTorch's some microseconds."""

# Said explicitly because Triton's default is about to change; multiply-add in one rounding.
LAUNCH: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}


class Tiles(NamedTuple):
    """``blocks`` tiles side by side cover the columns, ``parts`` of ``steps`` rows each the rows."""

    rows: int
    columns: int
    blocks: int
    steps: int
    parts: int

    @classmethod
    def of(cls, M: int, H: int, programs: int | None = None) -> "Tiles":
        """About ``programs`` programs that each add up a part, or one program for every tile."""
        columns = min(COLUMNS, 1 << (H - 1).bit_length())
        rows, blocks = TILE // columns, -(-H // columns)
        tiles = -(-M // rows)
        parts = tiles if programs is None else max(1, min(tiles, programs // blocks))
        steps = -(-tiles // parts) * rows
        return cls(rows, columns, blocks, steps, -(-M // steps))

    @property
    def grid(self) -> tuple[int, int]:
        """Programs of a kernel."""
        return self.parts, self.blocks

    @property
    def sizes(self) -> dict[str, Any]:
        """A kernel's constants, and how it is launched."""
        return {"ROWS": self.rows, "COLUMNS": self.columns, **LAUNCH}


def on_triton(x: Tensor) -> bool:
    """Whether x is large, on a CUDA device, and of a type that kernels with float32 inside can serve."""
    served = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return on_card(x) and served and x.numel() >= WORTH_A_LAUNCH


def programs_wanted(device: torch.device) -> int:
    """Programs that keep a device's memory busy while each adds up a part of the rows."""
    return PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(device)
