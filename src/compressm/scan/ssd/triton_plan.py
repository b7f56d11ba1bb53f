"""How the Triton kernels of linear attention cut their work: chunks of time and blocks of channels."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

STEPS = {"scalar": 64, "vector": 32}
"""Steps of a chunk, by kind of decay: work inside a chunk grows with them, states between chunks shrink."""


class Plan(NamedTuple):
    """The sizes of a call, and of the tiles that its programs take."""

    batch: int
    L: int
    heads: int
    K: int
    V: int
    per_channel: bool
    steps: int
    block_k: int
    block_v: int

    @classmethod
    def of(cls, q: Tensor, v: Tensor, log_decay: Tensor) -> "Plan":
        """For queries (batch, L, heads, K), values (batch, L, heads, V) and logarithms of decays."""
        (batch, L, heads, K), V = q.shape, v.shape[3]
        per_channel = log_decay.ndim == 4
        steps = steps_of_chunk(log_decay)
        return cls(batch, L, heads, K, V, per_channel, steps, block_of(K), block_of(V))

    @property
    def chunks(self) -> int:
        """Chunks of a sequence."""
        return -(-self.L // self.steps)

    @property
    def places(self) -> int:
        """Chunks of all sequences and heads."""
        return self.batch * self.heads * self.chunks

    @property
    def levels(self) -> int:
        """Levels at which pairs of steps of a chunk meet."""
        return self.steps.bit_length() - 1

    @property
    def blocks_k(self) -> int:
        """Tiles of key channels."""
        return -(-self.K // self.block_k)

    @property
    def blocks_v(self) -> int:
        """Tiles of value channels."""
        return -(-self.V // self.block_v)

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """L, heads, K, V, chunks, as the kernels take them."""
        return self.L, self.heads, self.K, self.V, self.chunks

    def blocks(self) -> dict[str, Any]:
        """What the kernels are compiled for."""
        return {
            "STEPS": self.steps,
            "BLOCK_K": self.block_k,
            "BLOCK_V": self.block_v,
            "PRECISION": precision(),
        }

    def pairs(self, q: Tensor) -> Tensor:
        """Room for a matrix of later by earlier steps for each chunk."""
        return q.new_empty(self.places, self.steps, self.steps)


def steps_of_chunk(log_decay: Tensor) -> int:
    """Steps that are computed together."""
    return STEPS["vector" if log_decay.ndim == 4 else "scalar"]


def block_of(channels: int) -> int:
    """Channels to a tile."""
    return 16 if channels <= 16 else 32


def precision() -> str:
    """What Triton is to do with float32 operands of matrix products, by PyTorch's setting."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"
