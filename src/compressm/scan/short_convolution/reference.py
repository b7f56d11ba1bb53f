"""The short convolution in plain PyTorch: the ground truth of the kernels, and the form of other devices."""

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, window: Tensor | None = None, *, silu: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute :func:`compressm.scan.short_convolution.short_convolution`, differentiable by autograd."""
    by_channel = x.mT
    if window is None:
        window = by_channel.new_zeros(*by_channel.shape[:2], weight.shape[2] - 1)
    seen = torch.cat((window.to(x.dtype), by_channel), dim=2)
    y = F.conv1d(seen, weight, bias, groups=weight.shape[0]).mT
    return F.silu(y) if silu else y, seen[:, :, x.shape[1] :]
