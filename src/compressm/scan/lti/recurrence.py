"""The recurrence and its adjoint over a piece of time, in place: Numba kernels.

A piece holds ``sequences`` sequences of ``steps`` steps each, one row of ``2 N`` numbers per step: N real
parts, then N imaginary parts. Rows are contiguous, so that a piece is the result of one matrix product and
the operand of the next. Time runs with the rows (``direction`` 1) or against them (-1).

Inner loops run over states, on slices that start at zero: written so, LLVM sees no overlap and no wrapped
index, and uses the widest vectors the processor has.
"""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.runtime.pointers import compiled, float32_pointer, float64_pointer, worker

LANES = 16  # states per cache line in float32: blocks of states divided among workers end on a line


@compiled
def block_of(item: Any, blocks: Any, N: Any) -> Any:
    """First and last state of one of ``blocks`` blocks of whole cache lines."""
    lines = (N + LANES - 1) // LANES
    first = item * lines // blocks * LANES
    last = (item + 1) * lines // blocks * LANES
    return first, min(last, N)


@compiled
def advance(
    rows: Any, lam: Any, carry: Any, steps: Any, N: Any, first: Any, last: Any, backward: Any
) -> None:
    """Turn inputs ``v_k`` into states ``x_k = lambda x_{k-1} + v_k``; ``carry`` is x before and after."""
    width = last - first
    local = np.empty((4, width), rows.dtype)
    a_re, a_im, x_re, x_im = local[0], local[1], local[2], local[3]
    for j in range(width):
        a_re[j], a_im[j] = lam[first + j], lam[N + first + j]
        x_re[j], x_im[j] = carry[first + j], carry[N + first + j]
    for step in range(steps):
        k = steps - 1 - step if backward else step
        start = 2 * N * k + first
        v_re, v_im = rows[start : start + width], rows[start + N : start + N + width]
        for j in range(width):
            re = a_re[j] * x_re[j] - a_im[j] * x_im[j] + v_re[j]
            im = a_re[j] * x_im[j] + a_im[j] * x_re[j] + v_im[j]
            x_re[j], x_im[j] = re, im
            v_re[j], v_im[j] = re, im
    for j in range(width):
        carry[first + j], carry[N + first + j] = x_re[j], x_im[j]


@compiled
def adjoint(
    rows: Any, states: Any, lam: Any, before: Any, carry: Any, slope: Any,
    steps: Any, N: Any, first: Any, last: Any, backward: Any,
) -> None:  # fmt: skip
    """Turn gradients of states ``g_k`` into ``w_k = g_k + conj(lambda) w_{k+1}``, against time.

    ``carry`` is ``conj(lambda) w`` of the step after the piece, and becomes that of its first step. ``slope``
    (float64) grows by ``sum_k conj(x_{k-1}) w_k``, the gradient of lambda; ``before`` is the state the piece
    started from.
    """
    width = last - first
    local = np.empty((6, width), rows.dtype)
    a_re, a_im, c_re, c_im, s_re, s_im = local[0], local[1], local[2], local[3], local[4], local[5]
    for j in range(width):
        a_re[j], a_im[j] = lam[first + j], lam[N + first + j]
        c_re[j], c_im[j] = carry[first + j], carry[N + first + j]
        s_re[j] = s_im[j] = 0
    for step in range(steps):
        k = step if backward else steps - 1 - step
        start = 2 * N * k + first
        g_re, g_im = rows[start : start + width], rows[start + N : start + N + width]
        if step < steps - 1:
            start = 2 * N * (k + 1 if backward else k - 1) + first
            x_re, x_im = states[start : start + width], states[start + N : start + N + width]
        else:
            x_re, x_im = before[first:last], before[N + first : N + last]
        for j in range(width):
            re = g_re[j] + c_re[j]
            im = g_im[j] + c_im[j]
            g_re[j], g_im[j] = re, im
            s_re[j] += x_re[j] * re + x_im[j] * im
            s_im[j] += x_re[j] * im - x_im[j] * re
            c_re[j] = a_re[j] * re + a_im[j] * im
            c_im[j] = a_re[j] * im - a_im[j] * re
    for j in range(width):
        carry[first + j], carry[N + first + j] = c_re[j], c_im[j]
        slope[first + j] += s_re[j]
        slope[N + first + j] += s_im[j]


@compiled
def sizes(words: Any) -> Any:
    """Sequences, steps, N, blocks of states per sequence, and whether time runs backwards."""
    return words[2], words[3], words[4], words[5], words[6]


@compiled
def _advance_kernel(arguments: Any, pointer: Any) -> None:
    words = carray(arguments, (10,))
    sequences, steps, N, blocks, backward = sizes(words)
    rows = carray(pointer(words[7]), (sequences, steps * 2 * N))
    lam, carry = carray(pointer(words[8]), (2 * N,)), carray(pointer(words[9]), (sequences, 2 * N))
    number, workers = worker(words)
    for item in range(number, sequences * blocks, workers):
        s = item // blocks
        first, last = block_of(item % blocks, blocks, N)
        advance(rows[s], lam, carry[s], steps, N, first, last, backward)


@compiled
def _adjoint_kernel(arguments: Any, pointer: Any) -> None:
    words = carray(arguments, (13,))
    sequences, steps, N, blocks, backward = sizes(words)
    rows = carray(pointer(words[7]), (sequences, steps * 2 * N))
    lam, carry = carray(pointer(words[8]), (2 * N,)), carray(pointer(words[9]), (sequences, 2 * N))
    states = carray(pointer(words[10]), (sequences, steps * 2 * N))
    before = carray(pointer(words[11]), (sequences, 2 * N))
    slope = carray(float64_pointer(words[12]), (sequences, 2 * N))
    number, workers = worker(words)
    for item in range(number, sequences * blocks, workers):
        s = item // blocks
        first, last = block_of(item % blocks, blocks, N)
        adjoint(rows[s], states[s], lam, before[s], carry[s], slope[s], steps, N, first, last, backward)


def advance_float32(arguments: Any) -> None:
    """Kernel. Words: worker, workers, sequences, steps, N, blocks, backward, rows, lambda, carry."""
    _advance_kernel(arguments, float32_pointer)


def advance_float64(arguments: Any) -> None:
    """Kernel. As :func:`advance_float32`."""
    _advance_kernel(arguments, float64_pointer)


def adjoint_float32(arguments: Any) -> None:
    """Kernel. Words as :func:`advance_float32`, then states, before, slope (float64)."""
    _adjoint_kernel(arguments, float32_pointer)


def adjoint_float64(arguments: Any) -> None:
    """Kernel. As :func:`adjoint_float32`."""
    _adjoint_kernel(arguments, float64_pointer)
