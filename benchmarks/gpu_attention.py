"""Linear attention for ``gpu_scan.py``: shapes, operands, and the bytes that its kernels move."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from compressm.scan import linear_attention_scan
from compressm.scan.ssd import stock
from compressm.scan.ssd.triton_plan import Plan

Run = Callable[..., tuple[Tensor, Tensor]]
Counts = tuple[int, int]


class Attention(NamedTuple):
    """Sizes of a call, and the kind of its decays."""

    batch: int
    L: int
    heads: int
    K: int
    V: int
    per_channel: bool


CHECKS = [
    Attention(batch, L, heads, K, V, per_channel)
    for batch, L, heads, K, V in (
        (2, 133, 3, 12, 5),
        (1, 301, 2, 93, 33),
        (3, 64, 2, 64, 64),
        (2, 1, 1, 3, 2),
    )
    for per_channel in (False, True)
]
SHAPES = {
    "Mamba-2 B=8 L=2048 24x128x64": Attention(8, 2048, 24, 128, 64, per_channel=False),
    "Mamba-2 B=8 L=2048 24x12x64": Attention(8, 2048, 24, 12, 64, per_channel=False),
    "GLA B=8 L=2048 4x128x256": Attention(8, 2048, 4, 128, 256, per_channel=True),
}
STRENGTHS = {"weak": 0.01, "strong": 10.0}


def attention_run(variant: str) -> Run:
    """linear_attention_scan by "scan" (our kernels), "TF32" (the same at its digits), "chunked" or "fla"."""

    def run(form: str, *given: Tensor) -> tuple[Tensor, Tensor]:
        if form == "reference":
            return linear_attention_scan(*given, form="reference")
        precision = "tf32" if variant in ("TF32", "fla") else "ieee"
        torch.backends.cuda.matmul.fp32_precision = precision
        if variant == "fla":
            q, k, v, log_decay, *state = given
            return stock.stock_scan(q, k, v, log_decay, state[0] if state else None, scale=1.0)
        return linear_attention_scan(*given, form="chunked" if variant == "chunked" else "triton")

    return run


def variants(shape: Attention) -> list[str]:
    """What is measured: fla only where it is installed."""
    installed = stock.stock_function(shape.per_channel) is not None
    return ["scan", "TF32", "chunked", *(["fla"] if installed else [])]


def attention_operands(
    shape: Attention, device: str, generator: torch.Generator, *, state: bool, strength: float = 0.1
) -> list[Tensor]:
    """q, k, v, logarithms of decays around ``-strength``, and the initial state."""
    batch, L, heads, K, V, per_channel = shape

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device)

    decays = -strength * normal(batch, L, heads, *([K] if per_channel else [])).exp()
    operands = [normal(batch, L, heads, K) / K**0.5, normal(batch, L, heads, K), normal(batch, L, heads, V)]
    operands += [decays, *([normal(batch, heads, K, V)] if state else [])]
    return [x.requires_grad_() for x in operands]


def attention_bytes(given: list[Tensor]) -> tuple[Counts, Counts]:
    """Bytes of the forward and the backward pass: the least possible, and what our kernels move.

    The kernels' passes are those of compressm.scan.ssd.triton; what several tiles read again is left to the
    card's cache.
    """
    plan = Plan.of(given[0], given[2], given[3])
    rows, K, V = plan.batch * plan.L * plan.heads, plan.K, plan.V
    decays = K if plan.per_channel else 1
    states, pairs = plan.places * K * V, plan.places * plan.steps**2
    least = (rows * (2 * K + 2 * V + decays), rows * (4 * K + 4 * V + 2 * decays))
    forward = rows * (4 * K + 3 * V + 3 * decays) + 4 * states + 2 * pairs
    backward = rows * (8 * K + 7 * V + 5 * decays) + 6 * states + (4 if plan.per_channel else 5) * pairs
    return (4 * least[0], 4 * least[1]), (4 * forward, 4 * backward)
