"""The pointwise parts of a block, each in one pass over memory: Numba kernels for a CPU.

Everything is a loop over flat arrays without branches, by explicit vectors, as LLVM by itself takes half of
the width of a processor; what is left behind the last whole vector is taken one by one, by functions that
round a little differently. Dropout's mask is a hash of the element's number: computed anew in the backward
pass instead of being stored.

What comes from a product or goes to one is float32 or, under autocast, bfloat16; everything else, arithmetic
included, is float32.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from compressm.scan.runtime.arrays import ZERO
from compressm.scan.runtime.functions import LOG2_E, ONE, exp2, sigmoid
from compressm.scan.runtime.pointers import (
    compiled,
    float32_pointer,
    float64_pointer,
    uint16_pointer,
    worker,
)
from compressm.scan.runtime.vectors import below, item, load, prefetch, prefetch_to_write, put, spread, store
from compressm.scan.runtime.widths import AHEAD, LANES

CHUNK = 1 << 10  # elements whose mask is made at once
SUMMED = 32  # rows whose gradients of a bias are added up in float32
SQRT_HALF = np.float32(0.7071067811865476)
INVERSE_SQRT_2PI = np.float32(0.3989422804014327)
# log 2 in two parts, the first with trailing zeros, so that k times it is exact (Cody and Waite).
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
# 1/n! for the Taylor series of exp on |r| <= log(2)/2: the first term left out is below 6e-9.
E2, E3, E4, E5, E6, E7 = (np.float32(1 / n) for n in (2, 6, 24, 120, 720, 5040))
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error| <= 1.5e-7.
ERF_P = np.float32(0.3275911)
ERF_1, ERF_2, ERF_3, ERF_4, ERF_5 = (
    np.float32(value) for value in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)
HALF = np.float32(0.5)


def _bits_to_float(typing_context: Any, bits: Any) -> Any:
    del typing_context, bits

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


_reinterpret = intrinsic(_bits_to_float)


@compiled
def _exp(x: Any) -> Any:
    """The exponential in float32 to about 1e-7 relative, for ``x`` clamped to [-87, 88]."""
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    k = np.floor(x * LOG2_E + HALF)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    series = ONE + r * (ONE + r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * (E6 + r * E7))))))
    return series * _reinterpret(np.int32((np.int32(k) + np.int32(127)) << np.int32(23)))


# Tails below about 1e-22 are exactly zero. Their products with gradients would be subnormal numbers, which
# processors handle many times slower, here and in every recurrence and product that comes after.
SIGMOID_TAIL, NORMAL_TAIL = np.float32(-50.0), np.float32(50.0)


@compiled
def _sigmoid(x: Any) -> Any:
    return np.float32(0.0) if x < SIGMOID_TAIL else ONE / (ONE + _exp(-x))


@compiled
def _normal(x: Any) -> Any:
    """Distribution function and density of the standard normal at ``x``."""
    z = abs(x) * SQRT_HALF
    gauss = np.float32(0.0) if z * z > NORMAL_TAIL else _exp(-z * z)
    t = ONE / (ONE + ERF_P * z)
    upper = HALF * gauss * t * (ERF_1 + t * (ERF_2 + t * (ERF_3 + t * (ERF_4 + t * ERF_5))))
    return (upper if x < 0 else ONE - upper), INVERSE_SQRT_2PI * gauss


@compiled
def _normals(x: Any) -> Any:
    """As :func:`_normal`, of a vector."""
    zero, one = spread(ZERO), spread(ONE)
    z = below(x, zero, zero - x, x) * spread(SQRT_HALF)
    gauss = exp2(zero - z * z * spread(LOG2_E))
    t = one / (one + spread(ERF_P) * z)
    series = spread(ERF_3) + t * (spread(ERF_4) + t * spread(ERF_5))
    upper = spread(HALF) * gauss * t * (spread(ERF_1) + t * (spread(ERF_2) + t * series))
    return below(x, zero, upper, one - upper), spread(INVERSE_SQRT_2PI) * gauss


@compiled
def _mix(h: Any) -> Any:
    """A bijection of 32-bit words in which every input bit stirs every output bit (murmur3's finaliser)."""
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h = np.uint32(h ^ (h >> np.uint32(13)))
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@compiled
def _fill(kept: Any, start: Any, seed: Any, threshold: Any, scale: Any) -> None:
    """Write ``scale`` where dropout keeps element ``start + i``, else 0."""
    if threshold == 0:
        kept[:] = scale
        return
    low, high = np.uint32(seed & 0xFFFFFFFF), np.uint32((seed >> 32) & 0xFFFFFFFF)
    for i in range(kept.size):
        # Two rounds with half of the seed each: after one alone, two seeds would permute the same mask.
        h = _mix(np.uint32(_mix(np.uint32(np.uint32(start + np.uint32(i)) ^ low)) + high))
        kept[i] = scale if h >= threshold else np.float32(0.0)


@compiled
def _share(count: Any, number: Any, workers: Any) -> Any:
    """First and last element of a worker's share, on borders of chunks."""
    chunks = (count + CHUNK - 1) // CHUNK
    return chunks * number // workers * CHUNK, min(chunks * (number + 1) // workers * CHUNK, count)


@compiled
def _whole(size: Any) -> Any:
    """Elements in whole vectors."""
    return size // LANES * LANES


@compiled
def _gelu(y: Any, kept: Any, out: Any) -> None:
    whole = _whole(kept.size)
    for i in range(0, whole, LANES):
        prefetch(y, i + AHEAD)
        prefetch_to_write(out, i + AHEAD)
        value = load(y, i)
        below_value, _ = _normals(value)
        store(out, i, value * below_value * load(kept, i))
    for i in range(whole, kept.size):
        below_value, _ = _normal(y[i])
        put(out, i, y[i] * below_value * kept[i])


@compiled
def _gelu_backward(y: Any, kept: Any, grad: Any, grad_y: Any) -> None:
    whole = _whole(kept.size)
    for i in range(0, whole, LANES):
        prefetch(y, i + AHEAD)
        prefetch(grad, i + AHEAD)
        prefetch_to_write(grad_y, i + AHEAD)
        value = load(y, i)
        below_value, density = _normals(value)
        store(grad_y, i, load(grad, i) * (below_value + value * density) * load(kept, i))
    for i in range(whole, kept.size):
        below_value, density = _normal(y[i])
        grad_y[i] = item(grad, i) * (below_value + y[i] * density) * kept[i]


@compiled
def _gate(x: Any, a: Any, b: Any, kept: Any, out: Any) -> None:
    whole = _whole(kept.size)
    for i in range(0, whole, LANES):
        prefetch(x, i + AHEAD)
        prefetch(a, i + AHEAD)
        prefetch(b, i + AHEAD)
        prefetch_to_write(out, i + AHEAD)
        store(out, i, load(x, i) + load(a, i) * sigmoid(load(b, i)) * load(kept, i))
    for i in range(whole, kept.size):
        out[i] = x[i] + item(a, i) * _sigmoid(item(b, i)) * kept[i]


@compiled
def _gate_backward(a: Any, b: Any, kept: Any, grad: Any, grad_a: Any, grad_b: Any) -> None:
    whole = _whole(kept.size)
    for i in range(0, whole, LANES):
        prefetch(a, i + AHEAD)
        prefetch(b, i + AHEAD)
        prefetch(grad, i + AHEAD)
        prefetch_to_write(grad_a, i + AHEAD)
        prefetch_to_write(grad_b, i + AHEAD)
        opened = sigmoid(load(b, i))
        passed = load(grad, i) * load(kept, i) * opened
        closing = passed * load(a, i) * (spread(ONE) - opened)
        store(grad_a, i, passed)
        store(grad_b, i, closing)
    for i in range(whole, kept.size):
        open_ = _sigmoid(item(b, i))
        flow = grad[i] * kept[i] * open_
        put(grad_a, i, flow)
        put(grad_b, i, flow * item(a, i) * (ONE - open_))


# Every kernel's words: worker, workers, count, seed, threshold and scale (in units of 2^-32), then arrays,
# ``count`` each. ``half`` makes a pointer to what comes from a product or goes to one. A chunk's mask is made
# first, in the first-level cache: in one loop with the rest the compiler runs out of registers, at twice the
# time.


@compiled
def setting(words: Any, at: Any) -> Any:
    """Seed, threshold and scale, which stand in three words."""
    scale = np.float32(np.float64(words[at + 2]) / np.float64(1 << 32))
    return words[at], np.uint32(words[at + 1]), scale


@compiled
def gelu_part(y: Any, out: Any, first: Any, seed: Any, threshold: Any, scale: Any) -> None:
    """``out = gelu(y) * kept``, of elements that are counted from ``first`` on."""
    mask = np.empty(CHUNK, np.float32)
    for start in range(0, y.size, CHUNK):
        stop = min(start + CHUNK, y.size)
        kept = mask[: stop - start]
        _fill(kept, np.uint32(first + start), seed, threshold, scale)
        _gelu(y[start:stop], kept, out[start:stop])


@compiled
def gelu_backward_part(
    y: Any, grad: Any, grad_y: Any, first: Any, seed: Any, threshold: Any, scale: Any
) -> None:
    """Gradient of y, of elements as of :func:`gelu_part`."""
    mask = np.empty(CHUNK, np.float32)
    for start in range(0, y.size, CHUNK):
        stop = min(start + CHUNK, y.size)
        kept = mask[: stop - start]
        _fill(kept, np.uint32(first + start), seed, threshold, scale)
        _gelu_backward(y[start:stop], kept, grad[start:stop], grad_y[start:stop])


@compiled
def _gelu_dropout(arguments: Any, half: Any) -> None:
    """``out = gelu(y) * kept``. Arrays: y, out (``half``)."""
    words = carray(arguments, (8,))
    number, workers = worker(words)
    first, last = _share(words[2], number, workers)
    seed, threshold, scale = setting(words, 3)
    y, out = carray(float32_pointer(words[6]), (words[2],)), carray(half(words[7]), (words[2],))
    gelu_part(y[first:last], out[first:last], first, seed, threshold, scale)


@compiled
def _gelu_dropout_backward(arguments: Any, half: Any) -> None:
    """Gradient of y. Arrays: y, grad (``half``), grad_y."""
    words = carray(arguments, (9,))
    number, workers = worker(words)
    first, last = _share(words[2], number, workers)
    seed, threshold, scale = setting(words, 3)
    y, grad = carray(float32_pointer(words[6]), (words[2],)), carray(half(words[7]), (words[2],))
    grad_y = carray(float32_pointer(words[8]), (words[2],))
    gelu_backward_part(y[first:last], grad[first:last], grad_y[first:last], first, seed, threshold, scale)


@compiled
def _gate_dropout(arguments: Any, half: Any) -> None:
    """``out = x + a * sigmoid(b) * kept``. Arrays: x, a and b (``half``), out."""
    words = carray(arguments, (10,))
    number, workers = worker(words)
    first, last = _share(words[2], number, workers)
    seed, threshold, scale = setting(words, 3)
    x, out = (carray(float32_pointer(words[6]), (words[2],)), carray(float32_pointer(words[9]), (words[2],)))
    a, b = carray(half(words[7]), (words[2],)), carray(half(words[8]), (words[2],))
    mask = np.empty(CHUNK, np.float32)
    for start in range(first, last, CHUNK):
        stop = min(start + CHUNK, last)
        kept = mask[: stop - start]
        _fill(kept, np.uint32(start), seed, threshold, scale)
        _gate(x[start:stop], a[start:stop], b[start:stop], kept, out[start:stop])


@compiled
def _gate_dropout_backward(arguments: Any, half: Any) -> None:
    """Gradients of a and b. Arrays: a and b (``half``), grad, gradients of a and b (``half``)."""
    words = carray(arguments, (11,))
    number, workers = worker(words)
    first, last = _share(words[2], number, workers)
    seed, threshold, scale = setting(words, 3)
    a, b = carray(half(words[6]), (words[2],)), carray(half(words[7]), (words[2],))
    grad = carray(float32_pointer(words[8]), (words[2],))
    grad_a, grad_b = carray(half(words[9]), (words[2],)), carray(half(words[10]), (words[2],))
    mask = np.empty(CHUNK, np.float32)
    for start in range(first, last, CHUNK):
        stop = min(start + CHUNK, last)
        kept = mask[: stop - start]
        _fill(kept, np.uint32(start), seed, threshold, scale)
        _gate_backward(
            a[start:stop], b[start:stop], kept, grad[start:stop], grad_a[start:stop], grad_b[start:stop]
        )


@compiled
def _rows_ahead(width: Any) -> Any:
    """AHEAD in whole rows: what is next in a half of a row's columns are those of the row behind it."""
    return (AHEAD + width - 1) // width * width


@compiled
def _glu_row(x: Any, a: Any, b: Any, bias_a: Any, bias_b: Any, kept: Any, out: Any) -> None:
    whole, far = _whole(kept.size), _rows_ahead(kept.size)
    for i in range(0, whole, LANES):
        prefetch(a, i + 2 * far)
        prefetch(b, i + 2 * far)
        prefetch(x, i + far)
        prefetch_to_write(out, i + far)
        opened = sigmoid(load(b, i) + load(bias_b, i))
        store(out, i, load(x, i) + (load(a, i) + load(bias_a, i)) * opened * load(kept, i))
    for i in range(whole, kept.size):
        out[i] = x[i] + (item(a, i) + bias_a[i]) * _sigmoid(item(b, i) + bias_b[i]) * kept[i]


@compiled
def _glu_row_backward(a: Any, b: Any, bias_a: Any, bias_b: Any, kept: Any, grad: Any, grad_a: Any,
                      grad_b: Any, sum_a: Any, sum_b: Any) -> None:  # fmt: skip
    whole, far = _whole(kept.size), _rows_ahead(kept.size)
    for i in range(0, whole, LANES):
        prefetch(a, i + 2 * far)
        prefetch(b, i + 2 * far)
        prefetch(grad, i + far)
        prefetch_to_write(grad_a, i + 2 * far)
        prefetch_to_write(grad_b, i + 2 * far)
        opened = sigmoid(load(b, i) + load(bias_b, i))
        passed = load(grad, i) * load(kept, i) * opened
        closing = passed * (load(a, i) + load(bias_a, i)) * (spread(ONE) - opened)
        store(grad_a, i, passed)
        store(grad_b, i, closing)
        store(sum_a, i, load(sum_a, i) + passed)
        store(sum_b, i, load(sum_b, i) + closing)
    for i in range(whole, kept.size):
        open_ = _sigmoid(item(b, i) + bias_b[i])
        flow = grad[i] * kept[i] * open_
        ending = flow * (item(a, i) + bias_a[i]) * (ONE - open_)
        put(grad_a, i, flow)
        put(grad_b, i, ending)
        sum_a[i] += flow
        sum_b[i] += ending


@compiled
def _glu_dropout(arguments: Any, half: Any) -> None:
    """``out = x + a * sigmoid(b) * kept``, a and b being the halves of rows of ``both + bias``.

    Words after the setting: width of a row. Arrays: x, both (``half``, two wide), bias, out.
    """
    words = carray(arguments, (11,))
    number, workers = worker(words)
    width = words[6]
    rows = words[2] // width
    seed, threshold, scale = setting(words, 3)
    x, out = (
        carray(float32_pointer(words[7]), (rows, width)),
        carray(float32_pointer(words[10]), (rows, width)),
    )
    both, bias = carray(half(words[8]), (rows, 2 * width)), carray(float32_pointer(words[9]), (2 * width,))
    kept = np.empty(width, np.float32)
    for row in range(rows * number // workers, rows * (number + 1) // workers):
        _fill(kept, np.uint32(row * width), seed, threshold, scale)
        _glu_row(x[row], both[row, :width], both[row, width:], bias[:width], bias[width:], kept, out[row])


@compiled
def _glu_dropout_backward(arguments: Any, half: Any) -> None:
    """Gradient of both, and each worker's share of that of the bias.

    Words as :func:`_glu_dropout`. Arrays: both (``half``), bias, grad, gradient of both (``half``), shares
    (workers, 2 width) in float64, which start as zero.
    """
    words = carray(arguments, (12,))
    number, workers = worker(words)
    width = words[6]
    rows = words[2] // width
    seed, threshold, scale = setting(words, 3)
    both, bias = carray(half(words[7]), (rows, 2 * width)), carray(float32_pointer(words[8]), (2 * width,))
    grad = carray(float32_pointer(words[9]), (rows, width))
    grad_both = carray(half(words[10]), (rows, 2 * width))
    share = carray(float64_pointer(words[11]), (workers, 2 * width))[number]
    kept, part = np.empty(width, np.float32), np.empty(2 * width, np.float32)
    first, last = rows * number // workers, rows * (number + 1) // workers
    for start in range(first, last, SUMMED):
        part[:] = 0
        for row in range(start, min(start + SUMMED, last)):
            _fill(kept, np.uint32(row * width), seed, threshold, scale)
            _glu_row_backward(
                both[row, :width], both[row, width:], bias[:width], bias[width:], kept, grad[row],
                grad_both[row, :width], grad_both[row, width:], part[:width], part[width:],
            )  # fmt: skip
        for i in range(2 * width):
            share[i] += part[i]


@compiled
def _swiglu_row(gate: Any, value: Any, out: Any) -> None:
    whole, far = _whole(gate.size), _rows_ahead(gate.size)
    for i in range(0, whole, LANES):
        prefetch(gate, i + 2 * far)
        prefetch(value, i + 2 * far)
        prefetch_to_write(out, i + far)
        g = load(gate, i)
        store(out, i, g * sigmoid(g) * load(value, i))
    for i in range(whole, gate.size):
        last = item(gate, i)
        put(out, i, last * _sigmoid(last) * item(value, i))


@compiled
def _swiglu_row_backward(gate: Any, value: Any, grad: Any, grad_gate: Any, grad_value: Any) -> None:
    whole, far, one = _whole(gate.size), _rows_ahead(gate.size), spread(ONE)
    for i in range(0, whole, LANES):
        prefetch(gate, i + 2 * far)
        prefetch(value, i + 2 * far)
        prefetch(grad, i + far)
        prefetch_to_write(grad_gate, i + 2 * far)
        prefetch_to_write(grad_value, i + 2 * far)
        g, passed = load(gate, i), load(grad, i)
        opened = sigmoid(g)
        store(grad_value, i, passed * g * opened)
        store(grad_gate, i, passed * load(value, i) * opened * (one + g * (one - opened)))
    for i in range(whole, gate.size):
        last, flow = item(gate, i), item(grad, i)
        open_ = _sigmoid(last)
        put(grad_value, i, flow * last * open_)
        put(grad_gate, i, flow * item(value, i) * open_ * (ONE + last * (ONE - open_)))


@compiled
def _swiglu(arguments: Any, half: Any) -> None:
    """``out = silu(gate) * value``.

    Words: worker, workers, rows, width; both (rows, 2 width) and out (rows, width), ``half``.
    """
    words = carray(arguments, (6,))
    number, workers = worker(words)
    rows, width = words[2], words[3]
    both, out = carray(half(words[4]), (rows, 2 * width)), carray(half(words[5]), (rows, width))
    for row in range(rows * number // workers, rows * (number + 1) // workers):
        _swiglu_row(both[row, :width], both[row, width:], out[row])


@compiled
def _swiglu_backward(arguments: Any, half: Any) -> None:
    """Words as of :func:`_swiglu` to both; gradients of out and of both (``half``)."""
    words = carray(arguments, (7,))
    number, workers = worker(words)
    rows, width = words[2], words[3]
    both, grad = carray(half(words[4]), (rows, 2 * width)), carray(half(words[5]), (rows, width))
    grad_both = carray(half(words[6]), (rows, 2 * width))
    for row in range(rows * number // workers, rows * (number + 1) // workers):
        _swiglu_row_backward(
            both[row, :width], both[row, width:], grad[row], grad_both[row, :width], grad_both[row, width:]
        )


def gelu_dropout_float32(arguments: Any) -> None:
    """Kernel of :func:`_gelu_dropout` for products in float32."""
    _gelu_dropout(arguments, float32_pointer)


def gelu_dropout_bfloat16(arguments: Any) -> None:
    """Kernel of :func:`_gelu_dropout` for products in bfloat16."""
    _gelu_dropout(arguments, uint16_pointer)


def gelu_dropout_backward_float32(arguments: Any) -> None:
    """Kernel of :func:`_gelu_dropout_backward` for products in float32."""
    _gelu_dropout_backward(arguments, float32_pointer)


def gelu_dropout_backward_bfloat16(arguments: Any) -> None:
    """Kernel of :func:`_gelu_dropout_backward` for products in bfloat16."""
    _gelu_dropout_backward(arguments, uint16_pointer)


def gate_float32(arguments: Any) -> None:
    """Kernel of :func:`_gate_dropout` for products in float32."""
    _gate_dropout(arguments, float32_pointer)


def gate_bfloat16(arguments: Any) -> None:
    """Kernel of :func:`_gate_dropout` for products in bfloat16."""
    _gate_dropout(arguments, uint16_pointer)


def gate_backward_float32(arguments: Any) -> None:
    """Kernel of :func:`_gate_dropout_backward` for products in float32."""
    _gate_dropout_backward(arguments, float32_pointer)


def gate_backward_bfloat16(arguments: Any) -> None:
    """Kernel of :func:`_gate_dropout_backward` for products in bfloat16."""
    _gate_dropout_backward(arguments, uint16_pointer)


def glu_float32(arguments: Any) -> None:
    """Kernel of :func:`_glu_dropout` for products in float32."""
    _glu_dropout(arguments, float32_pointer)


def glu_bfloat16(arguments: Any) -> None:
    """Kernel of :func:`_glu_dropout` for products in bfloat16."""
    _glu_dropout(arguments, uint16_pointer)


def glu_backward_float32(arguments: Any) -> None:
    """Kernel of :func:`_glu_dropout_backward` for products in float32."""
    _glu_dropout_backward(arguments, float32_pointer)


def glu_backward_bfloat16(arguments: Any) -> None:
    """Kernel of :func:`_glu_dropout_backward` for products in bfloat16."""
    _glu_dropout_backward(arguments, uint16_pointer)


def swiglu_float32(arguments: Any) -> None:
    """Kernel of :func:`_swiglu` for products in float32."""
    _swiglu(arguments, float32_pointer)


def swiglu_bfloat16(arguments: Any) -> None:
    """Kernel of :func:`_swiglu` for products in bfloat16."""
    _swiglu(arguments, uint16_pointer)


def swiglu_backward_float32(arguments: Any) -> None:
    """Kernel of :func:`_swiglu_backward` for products in float32."""
    _swiglu_backward(arguments, float32_pointer)


def swiglu_backward_bfloat16(arguments: Any) -> None:
    """Kernel of :func:`_swiglu_backward` for products in bfloat16."""
    _swiglu_backward(arguments, uint16_pointer)
