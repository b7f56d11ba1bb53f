"""The short causal convolution in front of selective layers, one filter for each channel."""

import math

import torch
from torch import Tensor, nn

from compressm.layers.arguments import check_sizes
from compressm.scan.short_convolution import short_convolution


class CausalConv1d(nn.Module):
    r"""``y_t[c] = bias[c] + sum_j weight[c, 0, j] x_{t - K + 1 + j}[c]``: depthwise, over the last K steps.

    Parameters have the names and shapes of ``torch.nn.Conv1d`` with one group for each channel, which stock
    Mamba layers keep their filters in. Sizes are read off them, because a cut may take channels away.

    Args:
        channels: Channels.
        kernel: Steps ``K`` that an output sees, its own included.
        bias: Whether to add a bias.

    Parameters: ``weight`` ``(channels, 1, K)``; ``bias`` ``(channels,)``, or None.

    Raises:
        ValueError: If a size is below 1.
    """

    bias: nn.Parameter | None

    def __init__(self, channels: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        check_sizes("CausalConv1d", channels=channels, kernel=kernel)
        bound = 1 / math.sqrt(kernel)
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None

    @property
    def channels(self) -> int:
        """Channels."""
        return self.weight.shape[0]

    @property
    def kernel(self) -> int:
        """Steps ``K`` that an output sees."""
        return self.weight.shape[2]

    def forward(
        self, x: Tensor, window: Tensor | None = None, *, silu: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Filter ``x`` ``(batch, L, channels)``.

        Args:
            x: Inputs; a slice of a wider projection is read where it lies.
            window: The last ``K - 1`` inputs before them, ``(batch, channels, K - 1)``; zero if not given.
            silu: Whether outputs go through SiLU.

        Returns:
            Outputs of the same shape, and the window after the last input.
        """
        return causal_convolution(x, window, self.weight, self.bias, silu=silu)

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"channels={self.channels}, kernel={self.kernel}, bias={self.bias is not None}"


def causal_convolution(
    x: Tensor, window: Tensor | None, weight: Tensor, bias: Tensor | None, *, silu: bool = False
) -> tuple[Tensor, Tensor]:
    """Filter every channel of ``x`` ``(batch, L, channels)`` with its own ``weight`` ``(channels, 1, K)``.

    With ``silu`` outputs go through SiLU.

    Returns:
        Outputs of the same shape, and the last ``K - 1`` inputs ``(batch, channels, K - 1)``.
    """
    return short_convolution(x, weight, bias, None if window is None else window.to(x.dtype), silu=silu)
