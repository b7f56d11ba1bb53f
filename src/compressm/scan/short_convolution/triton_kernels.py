"""Kernels of the short convolution, in Triton: tiles of steps by channels, rows in float32 or bfloat16.

Forward a tile is read once for each of the K inputs that its outputs see; but for the first, the cache has
them. Backward a lane of a warp is a channel (``scan/runtime/columns.py``) and has the tile's inputs, and the
few around it, in registers: each output's gradient before the activation is made once, and at the tile's end
again for K - 1 outputs behind it.
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl

from compressm.scan.runtime.columns import row
from compressm.scan.runtime.triton_functions import sigmoid

UNALIGNED = ["x", "grad_y", "grad_x", "weight", "bias", "sums"]


@triton.jit
def _place(tiles, blocks):
    """A program's sequence, tile of time and block of channels. One axis of programs has room for all."""
    rest = tl.program_id(0) // blocks
    return (rest // tiles).to(tl.int64), rest % tiles, tl.program_id(0) % blocks


@triton.jit
def convolve(
    x, weight, bias, y, L, channels: tl.constexpr, X_ROW: tl.constexpr, K: tl.constexpr,
    SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Outputs of a tile; inputs before the first are 0. ``weight`` is (K, channels)."""
    sequence, tile, block = _place((L + ROWS - 1) // ROWS, (channels + COLUMNS - 1) // COLUMNS)
    start = tile * ROWS
    c = block * COLUMNS + tl.arange(0, COLUMNS)
    steps = start + tl.arange(0, ROWS)
    known = c < channels
    out = tl.zeros([ROWS, COLUMNS], tl.float32) + tl.load(bias + c, mask=known, other=0.0)[None, :]
    for j in tl.static_range(K):
        at = steps + (j - K + 1)
        inside = ((at >= 0) & (at < L))[:, None] & known[None, :]
        value = tl.load(x + (sequence * L + at)[:, None] * X_ROW + c[None, :], mask=inside, other=0.0)
        out += tl.load(weight + j * channels + c, mask=known, other=0.0)[None, :] * value.to(tl.float32)
    if SILU:
        out *= sigmoid(out)
    to = y + (sequence * L + steps)[:, None] * channels + c[None, :]
    tl.store(to, out, mask=(steps < L)[:, None] & known[None, :])


@triton.jit
def _tile(x, sequence, start, L, c, known, ROW: tl.constexpr, STEPS: tl.constexpr):
    """Rows from ``start`` on, in float32; 0 before the first and behind the last."""
    at = start + tl.arange(0, STEPS)
    inside = ((at >= 0) & (at < L))[:, None] & known[None, :]
    place = (sequence * L + start) * ROW + ((tl.arange(0, STEPS) * ROW)[:, None] + c[None, :])
    return tl.load(x + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _step(before, tile, after, at: tl.constexpr):
    """Step ``at`` of three tiles behind each other, counted from the middle one's first."""
    if at < 0:
        return row(before, before.shape[0] + at)
    if at < tile.shape[0]:
        return row(tile, at)
    return row(after, at - tile.shape[0])


@triton.jit
def _slopes(g, before, tile, after, weights, shift, FROM: tl.constexpr, K: tl.constexpr, SILU: tl.constexpr):
    """Gradients before the activation, for outputs from FROM on, from gradients g behind it."""
    result, steps = g, tl.arange(0, g.shape[0])[:, None]
    if SILU:
        for t in tl.static_range(g.shape[0]):
            # Beyond K - 1 outputs behind the tile nobody asks, nor are there inputs.
            if FROM + t < tile.shape[0] + K - 1:
                out = shift
                for j in tl.static_range(K):
                    out += row(weights, j) * _step(before, tile, after, FROM + t - K + 1 + j)
                open_ = sigmoid(out)
                slope = row(g, t) * open_ * (1.0 + out * (1.0 - open_))
                result = tl.where(steps == t, slope[None, :], result)
    return result


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def gradients(
    x, weight, bias, grad_y, grad_x, sums, L, channels: tl.constexpr, X_ROW: tl.constexpr, K: tl.constexpr,
    AROUND: tl.constexpr, SILU: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile's inputs; its share of those of weights and bias, (batch, tiles, K + 1, channels).

    AROUND, a power of two and at least K - 1 (and for weights K), is how much of the neighbours is looked at.
    """
    tiles = (L + STEPS - 1) // STEPS
    sequence, number, block = _place(tiles, (channels + BLOCK - 1) // BLOCK)
    start = number * STEPS
    c = block * BLOCK + tl.arange(0, BLOCK)
    known = c < channels
    which = tl.arange(0, AROUND)[:, None]
    at = weight + which * channels + c[None, :]
    weights = tl.load(at, mask=(which < K) & known[None, :], other=0.0)
    shift = tl.load(bias + c, mask=known, other=0.0)
    before = _tile(x, sequence, start - AROUND, L, c, known, X_ROW, AROUND)
    tile = _tile(x, sequence, start, L, c, known, X_ROW, STEPS)
    after = _tile(x, sequence, start + STEPS, L, c, known, X_ROW, AROUND)
    g = _tile(grad_y, sequence, start, L, c, known, channels, STEPS)
    later = _tile(grad_y, sequence, start + STEPS, L, c, known, channels, AROUND)
    g = _slopes(g, before, tile, after, weights, shift, 0, K, SILU)
    later = _slopes(later, before, tile, after, weights, shift, STEPS, K, SILU)
    result, steps = tl.zeros_like(tile), tl.arange(0, STEPS)[:, None]
    for t in tl.static_range(STEPS):
        total = tl.zeros_like(shift)
        for j in tl.static_range(K):
            total += row(weights, j) * _step(before, g, later, t + K - 1 - j)
        result = tl.where(steps == t, total[None, :], result)
    place = (sequence * L + start) * channels + ((tl.arange(0, STEPS) * channels)[:, None] + c[None, :])
    tl.store(grad_x + place, result, mask=(steps < L - start) & known[None, :])
    share = sums + (sequence * tiles + number) * (K + 1) * channels + c
    for j in tl.static_range(K):
        total = tl.zeros_like(shift)
        for t in tl.static_range(STEPS):
            total += row(g, t) * _step(before, tile, after, t - K + 1 + j)
        tl.store(share + j * channels, total, mask=known)
    tl.store(share + K * channels, tl.sum(g, axis=0), mask=known)
