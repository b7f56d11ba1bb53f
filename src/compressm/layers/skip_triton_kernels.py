"""Kernels of the skip term over the rows of matrices (M, H), in Triton; ``steps`` rows to a program."""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl


@triton.jit
def skip(y, u, D, out, M, steps, H: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """``out = y + D u``."""
    first = tl.program_id(0).to(tl.int64) * steps
    count = tl.minimum(M - first, steps).to(tl.int32)
    r = tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    offsets = r * H + c[None, :]
    across = (c < H)[None, :]
    weight = tl.load(D + c, mask=c < H, other=0.0).to(tl.float32)[None, :]
    at = first * H
    for row in tl.range(0, count, ROWS):
        inside = (r < count - row) & across
        value = tl.load(y + at + offsets, mask=inside, other=0.0).to(tl.float32)
        value += weight * tl.load(u + at + offsets, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + at + offsets, value, mask=inside)
        at += ROWS * H


@triton.jit
def skip_backward(
    grad, u, D, grad_u, shares, M, steps, H: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Gradient of u, and each part's share of that of D: ``shares``, (parts, H)."""
    first = tl.program_id(0).to(tl.int64) * steps
    count = tl.minimum(M - first, steps).to(tl.int32)
    r = tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    offsets = r * H + c[None, :]
    across = (c < H)[None, :]
    weight = tl.load(D + c, mask=c < H, other=0.0).to(tl.float32)[None, :]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    at = first * H
    for row in tl.range(0, count, ROWS):
        inside = (r < count - row) & across
        slope = tl.load(grad + at + offsets, mask=inside, other=0.0).to(tl.float32)
        total += slope * tl.load(u + at + offsets, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_u + at + offsets, slope * weight, mask=inside)
        at += ROWS * H
    tl.store(shares + tl.program_id(0).to(tl.int64) * H + c, tl.sum(total, axis=0), mask=c < H)
