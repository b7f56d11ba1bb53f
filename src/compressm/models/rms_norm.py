"""The root-mean-square norm of pre-norm blocks."""

from typing import cast

from torch import Tensor, nn

from compressm.layers.rms_norm import rms_norm


class RMSNorm(nn.RMSNorm):
    """``weight * x / sqrt(mean(x^2) + eps)`` over the last axis, ``torch.nn.RMSNorm`` with quicker gradients.

    Args:
        channels: Channels ``H``.
        eps: Added to the mean square.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` ``(..., H)``."""
        return rms_norm(x, self.weight, cast(float, self.eps))
