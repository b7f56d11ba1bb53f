"""Norms by the root mean square that stand between a recurrence and its output projection.

They keep the precision of what they are given, whatever that of their weights is: recurrences give float32 in
a model of half precision.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressm.layers.rms_norm import rms_norm
from compressm.scan.precision import at_least_float32


class RMSNorm(nn.Module):
    """``weight * y / rms(y)``.

    Args:
        channels: Channels.
        eps: Added to the mean square.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, y: Tensor) -> Tensor:
        """Normalise ``y`` ``(..., channels)``."""
        return rms_norm(y, at_least_float32(self.weight), self.eps)


class GatedRMSNorm(nn.Module):
    """``weight * x / rms(x)`` with ``x = y silu(z)``, the mean over each of ``groups`` equal parts (Mamba-2).

    Args:
        channels: Channels, a multiple of ``groups``.
        groups: Parts that are normalised on their own.
        eps: Added to the mean square.
    """

    def __init__(self, channels: int, *, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.groups, self.eps = groups, eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Gate and normalise ``y`` ``(..., channels)``."""
        x = y * F.silu(z.to(y.dtype))
        if self.groups == 1:
            return rms_norm(x, at_least_float32(self.weight), self.eps)
        parts = x.reshape(*x.shape[:-1], self.groups, -1)
        normed = F.rms_norm(parts, parts.shape[-1:], eps=self.eps).reshape(x.shape)
        return at_least_float32(self.weight) * normed
