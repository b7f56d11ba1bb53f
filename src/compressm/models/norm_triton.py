"""Batch normalisation over the rows of a matrix (M, H) on a CUDA device, by kernels in Triton.

Both directions read the matrix for its sums and again for the result: three passes over memory forward, five
backward. No sum depends on the order in which programs run: results repeat bit for bit.
"""

import torch
from torch import Tensor

from compressm.models import norm_triton_kernels as kernels
from compressm.scan.runtime.tiles import LAUNCH, Tiles, programs_wanted

# Sums of parts are few: narrow tiles, so that more than a few programs share them.
_FINISH = {"ROWS": 128, "COLUMNS": 8, **LAUNCH}


def batch_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised rows in x's type, and their mean and biased variance (H,) in float32."""
    x = x.contiguous()
    with torch.cuda.device(x.get_device()):
        mean, var, inverse = _statistics(x, x, None, eps)
        return _apply(x, x, mean, mean, inverse, backward=False), mean, var


def batch_norm_backward(grad: Tensor, normal: Tensor, var: Tensor, eps: float) -> Tensor:
    """Gradient of the rows from that of the normalised rows."""
    grad, normal = grad.contiguous(), normal.contiguous()
    with torch.cuda.device(grad.get_device()):
        mean, slope, inverse = _statistics(grad, normal, var, eps)
        return _apply(grad, normal, mean, slope, inverse, backward=True)


def _statistics(x: Tensor, other: Tensor, var: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    M, H = x.shape
    tiles = Tiles.of(M, H, programs_wanted(x.device))
    moments = torch.empty(tiles.parts, 2, H, dtype=torch.float64, device=x.device)
    backward = var is not None
    kernels.sums[tiles.grid](x, other, moments, M, tiles.steps, H=H, BACKWARD=backward, **tiles.sizes)
    first, second, inverse = (torch.empty(H, device=x.device) for _ in range(3))
    known = inverse if var is None else var
    kernels.finish[(-(-H // _FINISH["COLUMNS"]),)](
        moments, known, first, second, inverse, M, tiles.parts, eps, H=H, BACKWARD=backward, **_FINISH
    )
    return first, second, inverse


def _apply(
    x: Tensor, normal: Tensor, mean: Tensor, slope: Tensor, inverse: Tensor, *, backward: bool
) -> Tensor:
    M, H = x.shape
    out, tiles = torch.empty_like(x), Tiles.of(M, H)
    kernels.apply[tiles.grid](
        x, normal, out, mean, slope, inverse, M, tiles.steps, H=H, BACKWARD=backward, **tiles.sizes
    )
    return out
