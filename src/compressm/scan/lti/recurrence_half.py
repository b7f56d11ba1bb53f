"""The recurrence and its adjoint over rows in bfloat16, computed in float32: Numba kernels.

Rows, blocks and words are those of :mod:`compressm.scan.lti.recurrence`. Only what lies in memory is rounded:
what a step passes on to the next keeps all its digits.
"""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.lti.recurrence import block_of, sizes
from compressm.scan.runtime.pointers import (
    compiled,
    float32_pointer,
    float64_pointer,
    uint16_pointer,
    worker,
)


@compiled
def _widen(halves: Any, bits: Any) -> None:
    """The bits of float32 numbers from those of bfloat16."""
    for j in range(halves.size):
        bits[j] = np.uint32(halves[j]) << np.uint32(16)


@compiled
def _narrow(bits: Any, halves: Any) -> None:
    """Round float32 numbers to nearest even bfloat16."""
    for j in range(halves.size):
        odd = (bits[j] >> np.uint32(16)) & np.uint32(1)
        halves[j] = np.uint16((bits[j] + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@compiled
def _advance(
    rows: Any, lam: Any, carry: Any, steps: Any, N: Any, first: Any, last: Any, backward: Any
) -> None:
    width = last - first
    local = np.empty((6, width), np.float32)
    a_re, a_im, x_re, x_im, v_re, v_im = local[0], local[1], local[2], local[3], local[4], local[5]
    re_bits, im_bits = v_re.view(np.uint32), v_im.view(np.uint32)
    for j in range(width):
        a_re[j], a_im[j] = lam[first + j], lam[N + first + j]
        x_re[j], x_im[j] = carry[first + j], carry[N + first + j]
    for step in range(steps):
        k = steps - 1 - step if backward else step
        start = 2 * N * k + first
        half_re, half_im = rows[start : start + width], rows[start + N : start + N + width]
        _widen(half_re, re_bits)
        _widen(half_im, im_bits)
        for j in range(width):
            re = a_re[j] * x_re[j] - a_im[j] * x_im[j] + v_re[j]
            im = a_re[j] * x_im[j] + a_im[j] * x_re[j] + v_im[j]
            x_re[j], x_im[j] = re, im
            v_re[j], v_im[j] = re, im
        _narrow(re_bits, half_re)
        _narrow(im_bits, half_im)
    for j in range(width):
        carry[first + j], carry[N + first + j] = x_re[j], x_im[j]


@compiled
def _adjoint(
    rows: Any, states: Any, lam: Any, before: Any, carry: Any, slope: Any,
    steps: Any, N: Any, first: Any, last: Any, backward: Any,
) -> None:  # fmt: skip
    width = last - first
    local = np.empty((10, width), np.float32)
    a_re, a_im, c_re, c_im, s_re, s_im = local[0], local[1], local[2], local[3], local[4], local[5]
    g_re, g_im, x_re, x_im = local[6], local[7], local[8], local[9]
    g_re_bits, g_im_bits = g_re.view(np.uint32), g_im.view(np.uint32)
    x_re_bits, x_im_bits = x_re.view(np.uint32), x_im.view(np.uint32)
    for j in range(width):
        a_re[j], a_im[j] = lam[first + j], lam[N + first + j]
        c_re[j], c_im[j] = carry[first + j], carry[N + first + j]
        s_re[j] = s_im[j] = 0
    for step in range(steps):
        k = step if backward else steps - 1 - step
        start = 2 * N * k + first
        half_re, half_im = rows[start : start + width], rows[start + N : start + N + width]
        _widen(half_re, g_re_bits)
        _widen(half_im, g_im_bits)
        if step < steps - 1:
            start = 2 * N * (k + 1 if backward else k - 1) + first
            _widen(states[start : start + width], x_re_bits)
            _widen(states[start + N : start + N + width], x_im_bits)
        else:
            x_re[:], x_im[:] = before[first:last], before[N + first : N + last]
        for j in range(width):
            re = g_re[j] + c_re[j]
            im = g_im[j] + c_im[j]
            g_re[j], g_im[j] = re, im
            s_re[j] += x_re[j] * re + x_im[j] * im
            s_im[j] += x_re[j] * im - x_im[j] * re
            c_re[j] = a_re[j] * re + a_im[j] * im
            c_im[j] = a_re[j] * im - a_im[j] * re
        _narrow(g_re_bits, half_re)
        _narrow(g_im_bits, half_im)
    for j in range(width):
        carry[first + j], carry[N + first + j] = c_re[j], c_im[j]
        slope[first + j] += s_re[j]
        slope[N + first + j] += s_im[j]


def advance_bfloat16(arguments: Any) -> None:
    """Kernel. Words as of :func:`compressm.scan.lti.recurrence.advance_float32`; lambda, carry: float32."""
    words = carray(arguments, (10,))
    sequences, steps, N, blocks, backward = sizes(words)
    rows = carray(uint16_pointer(words[7]), (sequences, steps * 2 * N))
    lam = carray(float32_pointer(words[8]), (2 * N,))
    carry = carray(float32_pointer(words[9]), (sequences, 2 * N))
    number, workers = worker(words)
    for item in range(number, sequences * blocks, workers):
        s = item // blocks
        first, last = block_of(item % blocks, blocks, N)
        _advance(rows[s], lam, carry[s], steps, N, first, last, backward)


def adjoint_bfloat16(arguments: Any) -> None:
    """Kernel. As :func:`advance_bfloat16`, then states (bfloat16), before (float32), slope (float64)."""
    words = carray(arguments, (13,))
    sequences, steps, N, blocks, backward = sizes(words)
    rows = carray(uint16_pointer(words[7]), (sequences, steps * 2 * N))
    lam = carray(float32_pointer(words[8]), (2 * N,))
    carry = carray(float32_pointer(words[9]), (sequences, 2 * N))
    states = carray(uint16_pointer(words[10]), (sequences, steps * 2 * N))
    before = carray(float32_pointer(words[11]), (sequences, 2 * N))
    slope = carray(float64_pointer(words[12]), (sequences, 2 * N))
    number, workers = worker(words)
    for item in range(number, sequences * blocks, workers):
        s = item // blocks
        first, last = block_of(item % blocks, blocks, N)
        _adjoint(rows[s], states[s], lam, before[s], carry[s], slope[s], steps, N, first, last, backward)
