"""The pointwise parts of a block in Triton, each in one pass over memory, with float32 inside.

Dropout's mask is a hash of the element's number and the seed, the same as on a CPU: the backward pass makes
it anew. What is halves of rows (gated linear unit) is taken in tiles, so that its bias is read, and the bias'
gradient added up, once for many rows; everything else is a flat array.
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl


@triton.jit
def _mix(h):
    """A bijection of 32-bit words in which every input bit stirs every output bit (murmur3's finaliser)."""
    h = h ^ (h >> 16)
    h = h * 0x85EBCA6B
    h = h ^ (h >> 13)
    h = h * 0xC2B2AE35
    return h ^ (h >> 16)


@triton.jit
def _kept(number, seed, threshold, scale):
    """``scale`` where dropout keeps the element of that number (uint32), else 0."""
    word = tl.load(seed)
    low, high = word.to(tl.uint32), (word >> 32).to(tl.uint32)
    # Two rounds with half of the seed each: after one alone, two seeds would permute the same mask.
    h = _mix(_mix(number ^ low) + high)
    return tl.where(h >= tl.cast(threshold, tl.uint32), scale, 0.0)


@triton.jit
def _normal(y):
    """Distribution function and density of the standard normal at ``y``."""
    below = 0.5 + 0.5 * tl.math.erf(y * 0.7071067811865476)
    return below, 0.3989422804014327 * tl.exp(-0.5 * y * y)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _span(count, BLOCK: tl.constexpr):
    """This program's first element, places from there, and which of them are elements."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    i = tl.arange(0, BLOCK)
    return start, i, i < tl.minimum(count - start, BLOCK).to(tl.int32)


@triton.jit
def gelu(y, out, seed, count, threshold, scale, DROPOUT: tl.constexpr, BLOCK: tl.constexpr):
    """GELU and dropout."""
    start, i, inside = _span(count, BLOCK)
    value = tl.load(y + start + i, mask=inside, other=0.0).to(tl.float32)
    below, _ = _normal(value)
    value = value * below
    if DROPOUT:
        value = value * _kept(start.to(tl.uint32) + i.to(tl.uint32), seed, threshold, scale)
    tl.store(out + start + i, value, mask=inside)


@triton.jit
def gelu_backward(y, grad, grad_y, seed, count, threshold, scale, DROPOUT: tl.constexpr, BLOCK: tl.constexpr):
    """Gradient of y."""
    start, i, inside = _span(count, BLOCK)
    value = tl.load(y + start + i, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(grad + start + i, mask=inside, other=0.0).to(tl.float32)
    below, density = _normal(value)
    slope = slope * (below + value * density)
    if DROPOUT:
        slope = slope * _kept(start.to(tl.uint32) + i.to(tl.uint32), seed, threshold, scale)
    tl.store(grad_y + start + i, slope, mask=inside)


@triton.jit
def gate(x, a, b, out, seed, count, threshold, scale, DROPOUT: tl.constexpr, BLOCK: tl.constexpr):
    """``out = x + a * sigmoid(b) * kept``."""
    start, i, inside = _span(count, BLOCK)
    residual = tl.load(x + start + i, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(a + start + i, mask=inside, other=0.0).to(tl.float32)
    value = value * _sigmoid(tl.load(b + start + i, mask=inside, other=0.0).to(tl.float32))
    if DROPOUT:
        value = value * _kept(start.to(tl.uint32) + i.to(tl.uint32), seed, threshold, scale)
    tl.store(out + start + i, residual + value, mask=inside)


@triton.jit
def gate_backward(
    a, b, grad, grad_a, grad_b, seed, count, threshold, scale, DROPOUT: tl.constexpr, BLOCK: tl.constexpr
):
    """Gradients of a and b."""
    start, i, inside = _span(count, BLOCK)
    value = tl.load(a + start + i, mask=inside, other=0.0).to(tl.float32)
    passed = tl.load(grad + start + i, mask=inside, other=0.0).to(tl.float32)
    opened = _sigmoid(tl.load(b + start + i, mask=inside, other=0.0).to(tl.float32))
    if DROPOUT:
        passed = passed * _kept(start.to(tl.uint32) + i.to(tl.uint32), seed, threshold, scale)
    tl.store(grad_a + start + i, passed * opened, mask=inside)
    tl.store(grad_b + start + i, passed * value * opened * (1.0 - opened), mask=inside)


@triton.jit
def glu(
    x, both, bias, out, seed, M, steps, threshold, scale,
    H: tl.constexpr, DROPOUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """``out = x + a * sigmoid(b) * kept``; a and b are the halves of ``both + bias``, (M, 2 H)."""
    first = tl.program_id(0).to(tl.int64) * steps
    count = tl.minimum(M - first, steps).to(tl.int32)
    r = tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    narrow, wide = r * H + c[None, :], r * (2 * H) + c[None, :]
    across = (c < H)[None, :]
    bias_a = tl.load(bias + c, mask=c < H, other=0.0).to(tl.float32)[None, :]
    bias_b = tl.load(bias + H + c, mask=c < H, other=0.0).to(tl.float32)[None, :]
    at = first * H
    for row in tl.range(0, count, ROWS):
        inside = (r < count - row) & across
        residual = tl.load(x + at + narrow, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(both + 2 * at + wide, mask=inside, other=0.0).to(tl.float32) + bias_a
        control = tl.load(both + 2 * at + H + wide, mask=inside, other=0.0).to(tl.float32) + bias_b
        value = value * _sigmoid(control)
        if DROPOUT:
            value = value * _kept(at.to(tl.uint32) + narrow.to(tl.uint32), seed, threshold, scale)
        tl.store(out + at + narrow, residual + value, mask=inside)
        at += ROWS * H


@triton.jit
def glu_backward(
    both, bias, grad, grad_both, shares, seed, M, steps, threshold, scale,
    H: tl.constexpr, DROPOUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradient of ``both``, and each part's share of that of the bias: ``shares``, (parts, 2 H)."""
    first = tl.program_id(0).to(tl.int64) * steps
    count = tl.minimum(M - first, steps).to(tl.int32)
    r = tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    narrow, wide = r * H + c[None, :], r * (2 * H) + c[None, :]
    across = (c < H)[None, :]
    bias_a = tl.load(bias + c, mask=c < H, other=0.0).to(tl.float32)[None, :]
    bias_b = tl.load(bias + H + c, mask=c < H, other=0.0).to(tl.float32)[None, :]
    at = first * H
    sum_a = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    sum_b = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for row in tl.range(0, count, ROWS):
        inside = (r < count - row) & across
        # Beyond the rows passed is zero, and with it what is added up.
        passed = tl.load(grad + at + narrow, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(both + 2 * at + wide, mask=inside, other=0.0).to(tl.float32) + bias_a
        control = tl.load(both + 2 * at + H + wide, mask=inside, other=0.0).to(tl.float32) + bias_b
        opened = _sigmoid(control)
        if DROPOUT:
            passed = passed * _kept(at.to(tl.uint32) + narrow.to(tl.uint32), seed, threshold, scale)
        grad_a = passed * opened
        grad_b = grad_a * value * (1.0 - opened)
        tl.store(grad_both + 2 * at + wide, grad_a, mask=inside)
        tl.store(grad_both + 2 * at + H + wide, grad_b, mask=inside)
        sum_a += grad_a
        sum_b += grad_b
        at += ROWS * H
    to = shares + tl.program_id(0).to(tl.int64) * (2 * H) + c
    tl.store(to, tl.sum(sum_a, axis=0), mask=c < H)
    tl.store(to + H, tl.sum(sum_b, axis=0), mask=c < H)
