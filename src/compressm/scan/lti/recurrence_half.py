"""The recurrence and its adjoint over rows in bfloat16, computed in float32: Numba kernels.

Rows, blocks and words are those of :mod:`compressm.scan.lti.recurrence`, whose loops run over a few rows at a
time, widened to float32. Only what lies in memory is rounded: what a step passes on to the next keeps all its
digits.
"""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.lti.recurrence import adjoint, advance, block_of, sizes
from compressm.scan.runtime.pointers import (
    compiled,
    float32_pointer,
    float64_pointer,
    uint16_pointer,
    worker,
)

ROWS = 16
"""Rows that are widened at once: few enough to stay in a core's caches, enough to be worth a call."""


@compiled
def _widen(rows: Any, start: Any, count: Any, N: Any, first: Any, width: Any, bits: Any) -> None:
    """The bits of float32 numbers of a block of states, from ``count`` rows of bfloat16 from ``start`` on."""
    for part in range(2 * count):
        halves = rows[(2 * start + part) * N + first : (2 * start + part) * N + first + width]
        wide = bits[part * width : (part + 1) * width]
        for j in range(width):
            wide[j] = np.uint32(halves[j]) << np.uint32(16)


@compiled
def _narrow(bits: Any, rows: Any, start: Any, count: Any, N: Any, first: Any, width: Any) -> None:
    """Back to where :func:`_widen` read, rounded to nearest even."""
    for part in range(2 * count):
        halves = rows[(2 * start + part) * N + first : (2 * start + part) * N + first + width]
        wide = bits[part * width : (part + 1) * width]
        for j in range(width):
            odd = (wide[j] >> np.uint32(16)) & np.uint32(1)
            halves[j] = np.uint16((wide[j] + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@compiled
def _block(x: Any, N: Any, first: Any, width: Any) -> Any:
    """A block's real and imaginary parts, out of all."""
    return np.concatenate((x[first : first + width], x[N + first : N + first + width]))


@compiled
def _advance(
    rows: Any, lam: Any, carry: Any, steps: Any, N: Any, first: Any, last: Any, backward: Any
) -> None:
    width = last - first
    a, state = _block(lam, N, first, width), _block(carry, N, first, width)
    wide = np.empty(ROWS * 2 * width, np.float32)
    bits = wide.view(np.uint32)
    for done in range(0, steps, ROWS):
        count = min(ROWS, steps - done)
        start = steps - done - count if backward else done
        _widen(rows, start, count, N, first, width, bits)
        advance(wide, a, state, count, width, 0, width, backward)
        _narrow(bits, rows, start, count, N, first, width)
    carry[first:last], carry[N + first : N + last] = state[:width], state[width:]


@compiled
def _adjoint(
    rows: Any, states: Any, lam: Any, before: Any, carry: Any, slope: Any,
    steps: Any, N: Any, first: Any, last: Any, backward: Any,
) -> None:  # fmt: skip
    width = last - first
    a, pulled, sums = _block(lam, N, first, width), _block(carry, N, first, width), np.zeros(2 * width)
    wide, earlier = np.empty((2, ROWS * 2 * width), np.float32), np.empty(2 * width, np.float32)
    bits, earlier_bits = wide.view(np.uint32), earlier.view(np.uint32)
    for done in range(0, steps, ROWS):
        count = min(ROWS, steps - done)
        start = done if backward else steps - done - count
        _widen(rows, start, count, N, first, width, bits[0])
        _widen(states, start, count, N, first, width, bits[1])
        if done + count < steps:
            _widen(states, start + count if backward else start - 1, 1, N, first, width, earlier_bits)
        else:
            earlier[:] = _block(before, N, first, width)
        adjoint(wide[0], wide[1], a, earlier, pulled, sums, count, width, 0, width, backward)
        _narrow(bits[0], rows, start, count, N, first, width)
    carry[first:last], carry[N + first : N + last] = pulled[:width], pulled[width:]
    slope[first:last] += sums[:width]
    slope[N + first : N + last] += sums[width:]


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
