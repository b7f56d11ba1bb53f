"""The short convolution on a CUDA device, by kernels in Triton that read rows where they lie.

Passes over memory: two forward and three backward. Inputs before the first come as a window, which is put in
front of a copy of the inputs: it is for streams, where there are few.
"""

from typing import Any

import torch
from torch import Tensor

from compressm.scan.runtime.rows import by_rows
from compressm.scan.short_convolution import triton_kernels as kernels
from compressm.scan.short_convolution.cpu import Gradients

# Said explicitly because Triton's default is about to change; multiply-add in one rounding.
_FORWARD: dict[str, Any] = {"ROWS": 32, "COLUMNS": 64, "num_warps": 4, "enable_fp_fusion": True}
_BACKWARD: dict[str, Any] = {"STEPS": 16, "BLOCK": 32, "num_warps": 1, "enable_fp_fusion": True}


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None, *, silu: bool
) -> tuple[Tensor, Tensor]:
    """Outputs and final window."""
    (_, L, channels), K = x.shape, weight.shape[2]
    seen = by_rows(x) if window is None else _behind(window, x)
    y, (batch, steps, _) = x.new_empty(seen.shape), seen.shape
    programs = batch * -(-channels // _FORWARD["COLUMNS"]) * -(-steps // _FORWARD["ROWS"])
    with torch.cuda.device(x.get_device()):
        kernels.convolve[(programs,)](
            seen, _filters(weight), _shift(weight, bias), y, steps,
            channels=channels, X_ROW=seen.stride(1), K=K, SILU=silu, **_FORWARD,
        )  # fmt: skip
    missing = K - 1 - steps  # at least 1 where a short sequence has no window
    last = seen[:, max(-missing, 0) :].mT
    final = last if missing <= 0 else torch.cat((last.new_zeros(batch, channels, missing), last), dim=2)
    return y[:, steps - L :].contiguous(), final.clone(memory_format=torch.contiguous_format)


def convolve_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None, *, silu: bool,
) -> Gradients:  # fmt: skip
    """Gradients of x, weight, bias (whether there is one or not) and window (empty without one)."""
    (batch, L, channels), K = x.shape, weight.shape[2]
    seen = by_rows(x) if window is None else _behind(window, x)
    steps = seen.shape[1]
    if grad_y is None:
        grad_y = seen.new_zeros(seen.shape)
    elif steps > L:
        grad_y = torch.cat((grad_y.new_zeros(batch, steps - L, channels), grad_y), dim=1)
    grad_seen, around = seen.new_empty(seen.shape), 1 << (K - 1).bit_length()
    tiles = -(-steps // _BACKWARD["STEPS"])
    sums = torch.empty(batch, tiles, K + 1, channels, device=x.device)
    with torch.cuda.device(x.get_device()):
        kernels.gradients[(batch * -(-channels // _BACKWARD["BLOCK"]) * tiles,)](
            seen, _filters(weight), _shift(weight, bias), grad_y.contiguous(), grad_seen, sums, steps,
            channels=channels, X_ROW=seen.stride(1), K=K, AROUND=around, SILU=silu, **_BACKWARD,
        )  # fmt: skip
    if grad_final is not None and K > 1:
        count = min(K - 1, steps)
        grad_seen[:, steps - count :] += grad_final[..., K - 1 - count :].mT
    total = sums.sum((0, 1)).to(weight.dtype)
    grad_weight = total[:K].mT[:, None].clone(memory_format=torch.contiguous_format)
    grad_window = grad_seen[:, : steps - L].mT.contiguous() if window is not None else weight.new_empty(0)
    return (
        grad_seen[:, steps - L :].contiguous(),
        grad_weight,
        total[K].clone(),
        grad_window.to(weight.dtype if window is None else window.dtype),
    )


def _behind(window: Tensor, x: Tensor) -> Tensor:
    return torch.cat((window.to(x.dtype).mT, x), dim=1)


def _filters(weight: Tensor) -> Tensor:
    """(K, channels) in float32."""
    return weight[:, 0].float().mT.contiguous()


def _shift(weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.zeros(len(weight), device=weight.device) if bias is None else bias.float().contiguous()
