"""The adjoint of the short convolution: Numba kernels.

Work is cut as in the forward kernel. What went into SiLU is computed anew, for a chunk and the K - 1 steps
after it, whose gradients reach back into the chunk. Inputs, outputs and their gradients are float32 or
bfloat16, everything else is float32.
"""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.runtime.arrays import ZERO, array, copy_row, scratch
from compressm.scan.runtime.functions import sigmoid
from compressm.scan.runtime.pointers import compiled, float32_pointer, uint16_pointer, worker
from compressm.scan.runtime.vectors import load, spread, store
from compressm.scan.runtime.widths import LANES
from compressm.scan.short_convolution import columns
from compressm.scan.short_convolution.layout import STEPS
from compressm.scan.short_convolution.strips import (
    clear,
    filtered,
    read_filters,
    read_past,
    read_rows,
    write_past,
)

ONE = np.float32(1.0)


@compiled
def _pull_silu(strip: Any, filters: Any, K: Any, steps: Any, width: Any, grad: Any) -> None:
    """Turn gradients of outputs into those of what went into SiLU."""
    for t in range(steps):
        for c in range(0, width, LANES):
            at = t * width + c
            value = filtered(strip, at, filters, c, K, width)
            opened = sigmoid(value)
            slope = opened * (spread(ONE) + value * (spread(ONE) - opened))
            store(grad, at, load(grad, at) * slope)


@compiled
def _add_weights(strip: Any, grad: Any, K: Any, steps: Any, width: Any, sums: Any) -> None:
    """Add a chunk's gradients of weights and bias to ``sums`` (K + 1, width)."""
    for c in range(0, width, LANES):
        for j in range(K):
            total = spread(ZERO)
            for t in range(steps):
                total = total + load(grad, t * width + c) * load(strip, (t + j) * width + c)
            store(sums, j * width + c, load(sums, j * width + c) + total)
        total = spread(ZERO)
        for t in range(steps):
            total = total + load(grad, t * width + c)
        store(sums, K * width + c, load(sums, K * width + c) + total)


@compiled
def _pull_inputs(
    grad: Any, filters: Any, K: Any, count: Any, after: Any, reached: Any, width: Any, row: Any,
    channels: Any, out: Any, stride_out: Any,
) -> None:  # fmt: skip
    """Gradients of ``count`` inputs: of the outputs from each on, ``grad``, and of the final window.

    ``after`` has those of the final window's inputs, of which input ``reached`` is the first.
    """
    for t in range(count):
        for c in range(0, width, LANES):
            total = spread(ZERO)
            for j in range(K):
                total = total + load(filters, (K - 1 - j) * width + c) * load(grad, (t + j) * width + c)
            if t >= reached:
                total = total + load(after, (t - reached) * width + c)
            store(row, c, total)
        copy_row(row, 0, channels, out, t * stride_out)


@compiled
def _pull_columns(
    x: Any, stride: Any, before: Any, grad: Any, gap: Any, begin: Any, end: Any, L: Any, channels: Any,
    filters: Any, silu: Any, memory: Any, after: Any, sums: Any, out: Any, stride_out: Any,
) -> None:  # fmt: skip
    """All gradients of steps ``begin`` to ``end`` of a sequence, where :func:`columns.fits`.

    ``memory`` is three strips of three rows, of which the last then has gradients of the window.
    """
    size, past = columns.PAST * channels, columns.PAST
    strip, history, lead = memory[:size], memory[size : 2 * size], memory[2 * size : 3 * size]
    history[:] = ZERO
    for first in range(begin, end, STEPS):
        leading = past if first == begin else 0
        read_past(x, stride, before, first, past, channels, strip, channels)
        columns.pull(
            x, first * stride, stride, strip, grad, first * gap, gap, filters, min(STEPS, end - first), silu,
            channels, history, sums, lead, leading, out[(first - past + leading) * stride_out :], stride_out,
        )  # fmt: skip
    read_past(x, stride, before, end, past, channels, strip, channels)
    leading = max(0, begin - (end - past))
    columns.pull_last(
        x, end * stride, stride, strip, grad, end * gap, gap, filters, min(past, L - end), silu, channels,
        history, after, L - end, leading, out[(end - past + leading) * stride_out :], stride_out,
    )  # fmt: skip


@compiled
def _backward(arguments: Any, pointer: Any) -> None:
    """Kernel of inputs and outputs at a ``pointer``; gradients of weights grow from what is there.

    Words: worker, workers, batch, L, channels, K, groups, silu; strides of x from sequence to sequence and
    from step to step; whether there are a bias and a window; strides of the gradients of y and of x; whether
    there is one of the final window; x, weight, bias, window, gradients of y and of the final window (batch,
    channels, K - 1); gradients of x, of weights and bias (batch groups, K + 1, whole vectors of channels) and
    of the window, written if there is one.
    """
    words = carray(arguments, (26,))
    batch, L, channels, K, groups, silu = words[2], words[3], words[4], words[5], words[6], words[7]
    per_sequence, stride, past = words[8], words[9], K - 1
    x = carray(pointer(words[17]), ((batch - 1) * per_sequence + (L - 1) * stride + channels,))
    weight, bias = array(words[18], channels * K), array(words[19], words[10] * channels)
    held, told = words[11] * channels * past, words[16] * channels * past
    window, grad_final = array(words[20], batch * held), array(words[22], batch * told)
    grad_y = carray(pointer(words[21]), ((batch - 1) * words[12] + (L - 1) * words[13] + channels,))
    grad_x = carray(pointer(words[23]), ((batch - 1) * words[14] + (L - 1) * words[15] + channels,))
    grad_window = array(words[25], batch * held)
    width, chunks = (channels + LANES - 1) // LANES * LANES, (L + STEPS - 1) // STEPS
    sums = array(words[24], batch * groups * (K + 1) * width)
    filters, row, after = scratch((K + 1) * width), scratch(width), scratch(past * width)
    strip = scratch((STEPS + 2 * past) * width)
    # Gradients of K - 1 steps before the chunk, which stay zero, then of the chunk and of those after it.
    padded = scratch((STEPS + 2 * past) * width)
    grad = padded[past * width :]
    read_filters(weight, bias, channels, K, filters, width)
    by_columns, memory = columns.fits(channels, L, K), scratch(3 * past * width)
    number, workers = worker(words)
    for item in range(number, batch * groups, workers):
        b, group = item // groups, item % groups
        here, before = x[b * per_sequence :], window[b * held : (b + 1) * held]
        # Before step 0 there are no rows to read: all of this is the final window's.
        read_past(here, stride, grad_final[b * told : (b + 1) * told], 0, past, channels, after, width)
        begin, end = group * chunks // groups, (group + 1) * chunks // groups
        if by_columns:
            _pull_columns(
                here, stride, before, grad_y[b * words[12] :], words[13], begin * STEPS,
                min(end * STEPS, L), L, channels, filters, silu, memory, after,
                sums[item * (K + 1) * width :], grad_x[b * words[14] :], words[15],
            )  # fmt: skip
            if group == 0 and words[11]:
                write_past(memory[2 * past * width :], past, channels, width, grad_window[b * held :])
            continue
        for chunk in range(begin, end):
            first = chunk * STEPS
            steps, known = min(STEPS, L - first), min(STEPS + past, L - first)
            read_past(here, stride, before, first, past, channels, strip, width)
            read_rows(here, first * stride, stride, known, channels, strip[past * width :], width)
            read_rows(grad_y, b * words[12] + first * words[13], words[13], known, channels, grad, width)
            clear(grad, known, steps + past, width)
            if silu:
                _pull_silu(strip, filters, K, known, width, grad)
            _add_weights(strip, grad, K, steps, width, sums[item * (K + 1) * width :])
            out = grad_x[b * words[14] + first * words[15] :]
            _pull_inputs(
                grad, filters, K, steps, after, L - past - first, width, row, channels, out, words[15]
            )
            if chunk == 0 and words[11]:
                _pull_inputs(padded, filters, K, past, after, L, width, row, width, strip, width)
                write_past(strip, past, channels, width, grad_window[b * held :])


def backward_float32(arguments: Any) -> None:
    """Kernel of float32; words of :func:`_backward`."""
    _backward(arguments, float32_pointer)


def backward_bfloat16(arguments: Any) -> None:
    """Kernel of bfloat16; words of :func:`_backward`."""
    _backward(arguments, uint16_pointer)
