"""What a model reads instead of stored bytes or ids; callables that can be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.data.splits import as_pixels


@dataclass(frozen=True)
class Permuted:
    """Pixels in [0, 1] in another order of steps: step k shows pixel ``order[k]``."""

    order: tuple[int, ...]

    def __call__(self, stored: Tensor) -> Tensor:
        """Map bytes ``(B, L, 1)`` to float32 of that shape."""
        return as_pixels(stored[:, torch.tensor(self.order)])


@dataclass(frozen=True)
class Normalised:
    """Pixels in [0, 1], less their channel's mean, over its standard deviation."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, stored: Tensor) -> Tensor:
        """Map bytes ``(B, L, C)`` to float32; means and deviations repeat along the last axis."""
        repeats = stored.shape[-1] // len(self.mean)
        mean = torch.tensor(self.mean).repeat(repeats)
        return as_pixels(stored).sub_(mean).div_(torch.tensor(self.std).repeat(repeats))


@dataclass(frozen=True)
class Grey:
    """The brightness of RGB pixels in [0, 1] by ITU-R BT.601, less its mean, over its deviation."""

    mean: float
    std: float

    def __call__(self, stored: Tensor) -> Tensor:
        """Map bytes ``(B, L, 3)`` to float32 ``(B, L, 1)``."""
        weights = torch.tensor((0.299, 0.587, 0.114)).unsqueeze(1)
        return (as_pixels(stored) @ weights).sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class Scaled:
    """Integers divided by a constant."""

    divisor: float

    def __call__(self, stored: Tensor) -> Tensor:
        """Map integers to float32 of the same shape."""
        return stored.to(torch.float32).div_(self.divisor)


@dataclass(frozen=True)
class OneHot:
    """Token ids as unit vectors: a linear map of them is an embedding."""

    size: int

    def __call__(self, stored: Tensor) -> Tensor:
        """Map ids ``(..., L)`` in 0..size-1 to float32 ``(..., L, size)``."""
        # Not torch.nn.functional.one_hot: its int64 result would take twice the memory of the batch itself.
        encoded = torch.zeros(*stored.shape, self.size)
        return encoded.scatter_(-1, stored.to(torch.int64).unsqueeze(-1), 1.0)


def token_ids(stored: Tensor) -> Tensor:
    """Token ids as int64, for models that have an embedding."""
    return stored.to(torch.int64)
