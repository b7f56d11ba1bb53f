"""Kernels of batch normalisation over the rows of a matrix (M, H), in Triton.

One program takes ``steps`` rows of ``COLUMNS`` columns, ``ROWS`` rows at a time. Sums are kept in float64: a
matrix read once from memory leaves time for it, and squares then need no mean beforehand.
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl


@triton.jit
def sums(
    x, other, moments, M, steps,
    H: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Each part's sums over its rows: ``moments``, (parts, 2, H), of x and of x times itself or ``other``."""
    first = tl.program_id(0).to(tl.int64) * steps
    count = tl.minimum(M - first, steps).to(tl.int32)
    r = tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    offsets = r * H + c[None, :]
    across = (c < H)[None, :]
    at = first * H
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float64)
    products = tl.zeros((ROWS, COLUMNS), dtype=tl.float64)
    for row in tl.range(0, count, ROWS):
        inside = (r < count - row) & across
        value = tl.load(x + at + offsets, mask=inside, other=0.0).to(tl.float64)
        factor = value
        if BACKWARD:
            factor = tl.load(other + at + offsets, mask=inside, other=0.0).to(tl.float64)
        total += value
        products += value * factor
        at += ROWS * H
    to = moments + tl.program_id(0).to(tl.int64) * (2 * H) + c
    tl.store(to, tl.sum(total, axis=0), mask=c < H)
    tl.store(to + H, tl.sum(products, axis=0), mask=c < H)


@triton.jit
def finish(
    moments, var, first, second, inverse, M, count, eps,
    H: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Add up ``count`` parts and divide by M; all results (H,).

    Forward: first and second are mean and variance. Backward: the means of the gradients, alone and times
    the normalised values. ``inverse`` is ``1/sqrt(variance + eps)``.
    """
    r = tl.arange(0, ROWS)[:, None]
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    offsets = r * (2 * H) + c[None, :]
    across = (c < H)[None, :]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float64)
    products = tl.zeros((ROWS, COLUMNS), dtype=tl.float64)
    for row in tl.range(0, count, ROWS):
        inside = (r < count - row) & across
        at = moments + row * (2 * H)
        total += tl.load(at + offsets, mask=inside, other=0.0)
        products += tl.load(at + H + offsets, mask=inside, other=0.0)
    mean = tl.sum(total, axis=0) / M
    square = tl.sum(products, axis=0) / M
    if BACKWARD:
        variance = tl.load(var + c, mask=c < H, other=1.0).to(tl.float64)
    else:
        square = tl.maximum(square - mean * mean, 0.0)
        variance = square
    tl.store(first + c, mean.to(tl.float32), mask=c < H)
    tl.store(second + c, square.to(tl.float32), mask=c < H)
    tl.store(inverse + c, (1.0 / tl.sqrt(variance + eps)).to(tl.float32), mask=c < H)


@triton.jit
def apply(
    x, normal, out, mean, slope, inverse, M, steps,
    H: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """``out = (x - mean) * inverse``; backward, where x are gradients, minus ``normal * slope`` too."""
    first = tl.program_id(0).to(tl.int64) * steps
    count = tl.minimum(M - first, steps).to(tl.int32)
    r = tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    offsets = r * H + c[None, :]
    across = (c < H)[None, :]
    centre = tl.load(mean + c, mask=c < H, other=0.0)[None, :]
    factor = tl.load(inverse + c, mask=c < H, other=0.0)[None, :]
    at = first * H
    for row in tl.range(0, count, ROWS):
        inside = (r < count - row) & across
        value = tl.load(x + at + offsets, mask=inside, other=0.0).to(tl.float32) - centre
        if BACKWARD:
            tilt = tl.load(slope + c, mask=c < H, other=0.0)[None, :]
            value -= tl.load(normal + at + offsets, mask=inside, other=0.0).to(tl.float32) * tilt
        tl.store(out + at + offsets, value * factor, mask=inside)
        at += ROWS * H
