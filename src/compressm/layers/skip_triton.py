"""The skip term on a CUDA device, by kernels in Triton: three passes over memory in each direction."""

import torch
from torch import Tensor

from compressm.layers import skip_triton_kernels as kernels
from compressm.scan.runtime.tiles import Tiles, programs_wanted


def skip(y: Tensor, u: Tensor, D: Tensor) -> Tensor:
    """``y + D u``, in y's type."""
    y, u, D = y.contiguous(), u.contiguous(), D.contiguous()
    M, H = y.numel() // y.shape[-1], y.shape[-1]
    out, tiles = torch.empty_like(y), Tiles.of(M, H)
    with torch.cuda.device(y.get_device()):
        kernels.skip[tiles.grid](y, u, D, out, M, tiles.steps, H=H, **tiles.sizes)
    return out


def skip_backward(grad: Tensor, u: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of u and D, in their types."""
    grad, u, D = grad.contiguous(), u.contiguous(), D.contiguous()
    M, H = u.numel() // u.shape[-1], u.shape[-1]
    grad_u, tiles = torch.empty_like(u), Tiles.of(M, H, programs_wanted(u.device))
    shares = torch.empty(tiles.parts, H, device=u.device)
    with torch.cuda.device(u.get_device()):
        kernels.skip_backward[tiles.grid](grad, u, D, grad_u, shares, M, tiles.steps, H=H, **tiles.sizes)
    return grad_u, shares.sum(0).to(D.dtype)
