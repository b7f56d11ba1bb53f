"""The pointwise parts of a block on a CUDA device, by kernels in Triton, with float32 inside.

Passes over memory, one for each tensor of the block's width: GELU two forward and three backward; the gated
linear unit, whose product is two wide, four and five. The bias costs none in either direction.
"""

import torch
from torch import Tensor

from compressm.models import pointwise_triton_kernels as kernels
from compressm.scan.runtime.tiles import LAUNCH, TILE, Tiles, programs_wanted


def gelu(y: Tensor, seed: Tensor, p: float, half: bool = False) -> Tensor:
    """``dropout(gelu(y))``, with ``half`` in bfloat16."""
    y = y.contiguous()
    out = torch.empty_like(y, dtype=torch.bfloat16 if half else y.dtype)
    with torch.cuda.device(y.get_device()):
        kernels.gelu[_grid(y)](y, out, seed, y.numel(), *_dropout(p), **_flat(p))
    return out


def gelu_backward(y: Tensor, grad: Tensor, seed: Tensor, p: float) -> Tensor:
    """Gradient of y."""
    y, grad = y.contiguous(), grad.contiguous()
    grad_y = torch.empty_like(y)
    with torch.cuda.device(y.get_device()):
        kernels.gelu_backward[_grid(y)](y, grad, grad_y, seed, y.numel(), *_dropout(p), **_flat(p))
    return grad_y


def gate(x: Tensor, a: Tensor, b: Tensor, seed: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``."""
    x, a, b = x.contiguous(), a.contiguous(), b.contiguous()
    out = torch.empty_like(x)
    with torch.cuda.device(x.get_device()):
        kernels.gate[_grid(x)](x, a, b, out, seed, x.numel(), *_dropout(p), **_flat(p))
    return out


def gate_backward(a: Tensor, b: Tensor, grad: Tensor, seed: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Gradients of a and b."""
    a, b, grad = a.contiguous(), b.contiguous(), grad.contiguous()
    grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
    with torch.cuda.device(a.get_device()):
        kernels.gate_backward[_grid(a)](a, b, grad, grad_a, grad_b, seed, a.numel(), *_dropout(p), **_flat(p))
    return grad_a, grad_b


def glu(x: Tensor, both: Tensor, bias: Tensor, seed: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``, a and b being the halves of ``both + bias``."""
    x, both, bias = x.contiguous(), both.contiguous(), bias.contiguous()
    M, H = x.numel() // x.shape[-1], x.shape[-1]
    out, tiles = torch.empty_like(x), Tiles.of(M, H)
    with torch.cuda.device(x.get_device()):
        kernels.glu[tiles.grid](
            x, both, bias, out, seed, M, tiles.steps, *_dropout(p), H=H, DROPOUT=p > 0, **tiles.sizes
        )
    return out


def glu_backward(both: Tensor, bias: Tensor, grad: Tensor, seed: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Gradients of ``both`` and of the bias, in their types."""
    both, bias, grad = both.contiguous(), bias.contiguous(), grad.contiguous()
    M, H = grad.numel() // grad.shape[-1], grad.shape[-1]
    grad_both, tiles = torch.empty_like(both), Tiles.of(M, H, programs_wanted(both.device))
    shares = torch.empty(tiles.parts, 2 * H, device=both.device)
    with torch.cuda.device(both.get_device()):
        kernels.glu_backward[tiles.grid](
            both, bias, grad, grad_both, shares, seed, M, tiles.steps, *_dropout(p),
            H=H, DROPOUT=p > 0, **tiles.sizes,
        )  # fmt: skip
    return grad_both, shares.sum(0).to(bias.dtype)


def _grid(flat: Tensor) -> tuple[int]:
    return (-(-flat.numel() // TILE),)


def _flat(p: float) -> dict[str, object]:
    return {"DROPOUT": p > 0, "BLOCK": TILE, **LAUNCH}


def _dropout(p: float) -> tuple[int, float]:
    """What an element's hash must reach to be kept, and the scale of what is kept."""
    threshold = min(round(p * 2**32), 2**32 - 1)
    return threshold, 1 / (1 - threshold / 2**32)
