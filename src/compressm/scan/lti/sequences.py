"""Whole sequences on one core each: projection, recurrence and output in one kernel.

Every worker takes a range of the batch and goes through it piece by piece, with PyTorch's matrix product and
the recurrence of :mod:`compressm.scan.lti.recurrence`. Nothing is shared but the operands, so the workers
meet only at the end, and a core that is held up by other programs delays no piece of another's.

Operands are addresses of contiguous arrays; pieces, carries and what is kept are as in
:mod:`compressm.scan.lti.together`.
"""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.lti.recurrence import adjoint, advance
from compressm.scan.runtime.pointers import (
    compiled,
    float32_pointer,
    float64_pointer,
    worker,
)
from compressm.scan.runtime.products import multiply, multiply_packed

CHECKPOINTS, STATES = 1, 2
WORDS = 64  # that a kernel has at most


@compiled
def _direct(D: Any, x: Any, y: Any) -> None:
    """``y = D x``, row by row."""
    for row in range(x.shape[0]):
        for c in range(D.size):
            y[row, c] = D[c] * x[row, c]


@compiled
def _direct_slopes(x: Any, y: Any, part: Any, share: Any) -> None:
    """Add the gradient of D: products of a piece in ``part``, its own sum, pieces in float64."""
    part[:] = 0
    for row in range(x.shape[0]):
        for c in range(part.size):
            part[c] += x[row, c] * y[row, c]
    for c in range(part.size):
        share[c] += part[c]


@compiled
def _multiply(size: Any, room: Any, a: Any, a_turned: Any, b: Any, b_turned: Any, c: Any, rows: Any,
              columns: Any, inner: Any, accumulate: Any) -> None:  # fmt: skip
    """``c = a b`` or ``c += a b`` of whole arrays, c (rows, columns); an operand may be stored transposed."""
    multiply(
        size, room, a, rows if a_turned else inner, a_turned, b, inner if b_turned else columns, b_turned, c,
        columns, rows, columns, inner, accumulate,
    )  # fmt: skip


@compiled
def multiply_by(size: Any, room: Any, a: Any, b: Any, b_turned: Any, packed: Any, c: Any, rows: Any,
                columns: Any, inner: Any, accumulate: Any) -> None:  # fmt: skip
    """``c = a b`` or ``c += a b``, as :func:`_multiply`; b is packed for so many rows unless that is 0."""
    if packed != 0:
        multiply_packed(room, a, inner, packed, c, columns, rows, columns, inner, accumulate)
    else:
        _multiply(size, room, a, False, b, b_turned, c, rows, columns, inner, accumulate)


@compiled
def _sizes(words: Any) -> Any:
    """Batch, L, H, P, N, sequences and steps of a piece, whether time runs backwards, what is kept."""
    return words[2], words[3], words[4], words[5], words[6], words[7], words[8], words[9], words[10]


@compiled
def _my_sequences(words: Any) -> Any:
    """The range of the batch that this worker takes, its number, and how many workers there are."""
    number, workers = worker(words)
    return words[2] * number // workers, words[2] * (number + 1) // workers, number, workers


@compiled
def given_rows(words: Any, _number: Any, row: Any, _rows: Any, size: Any) -> Any:
    """The address of inputs from a row on; they are what is stored."""
    return words[11] + row * words[4] * size


@compiled
def given_slopes(words: Any, _number: Any, row: Any, _rows: Any, size: Any) -> Any:
    """The address of gradients of outputs from a row on; they are what is stored, or 0 if there are none."""
    return words[16] + row * words[5] * size if words[16] != 0 else 0


@compiled
def leave_outputs(_words: Any, _row: Any, _rows: Any, _u_rows: Any, _y_rows: Any) -> None:
    """Outputs are done."""


@compiled
def leave_gradients(
    _words: Any, _number: Any, _row: Any, _rows: Any, _u_rows: Any, _y_rows: Any, _grad_rows: Any
) -> None:
    """Gradients of inputs are done."""


@compiled
def _clear(pointer: Any, first: Any, second: Any, first_size: Any, second_size: Any) -> None:
    carray(pointer(first), (first_size,))[:] = 0
    carray(pointer(second), (second_size,))[:] = 0


def forward_through(inputs: Any, outputs: Any) -> Any:
    """The forward pass of one worker, a part of a kernel: of its arguments, pointers and bytes of a number.

    ``inputs``, such as :func:`given_rows`, gives a piece's inputs, and ``outputs``, such as
    :func:`leave_outputs`, is called with inputs and outputs while the cache has them. Words behind those that
    are read here are theirs.
    """

    def forward(arguments: Any, pointer: Any, size: Any) -> None:
        words = carray(arguments, (WORDS,))
        batch, L, H, P, N, together, steps, backward, keep = _sizes(words)
        into, out_of, y, kept, D = words[12], words[13], words[16], words[17], words[20]
        packed_into, packed_out_of = words[21], words[22]
        lam, carry = carray(pointer(words[14]), (2 * N,)), carray(pointer(words[15]), (batch, 2 * N))
        begin, end, number, _ = _my_sequences(words)
        count, row_bytes = (L + steps - 1) // steps, 2 * N * size
        room, scratch = words[18] + 80 * number, words[19] + number * together * steps * row_bytes
        for first in range(begin, end, together):
            last = min(first + together, end)
            for step in range(count):
                index = count - 1 - step if backward else step
                here, there = index * steps, min((index + 1) * steps, L)
                row, each = first * L + here, there - here
                rows = (last - first) * each
                whole = rows == together * steps
                u_rows = inputs(words, number, row, rows, size)
                x = kept + row * row_bytes if keep == STATES else scratch
                packed = packed_into if whole else 0
                multiply_by(size, room, u_rows, into, True, packed, x, rows, 2 * N, H, False)
                states = carray(pointer(x), (last - first, each * 2 * N))
                for s in range(first, last):
                    if keep == CHECKPOINTS:
                        carray(pointer(kept + (s * count + index) * row_bytes), (2 * N,))[:] = carry[s]
                    advance(states[s - first], lam, carry[s], each, N, 0, N, backward)
                to = y + row * P * size
                if D != 0:
                    given = carray(pointer(u_rows), (rows, H))
                    _direct(carray(pointer(D), (P,)), given, carray(pointer(to), (rows, P)))
                packed = packed_out_of if whole else 0
                multiply_by(size, room, x, out_of, True, packed, to, rows, P, 2 * N, D != 0)
                outputs(words, row, rows, u_rows, to)

    return _named(forward, inputs, outputs)


def backward_through(inputs: Any, slopes_of: Any, gradients: Any) -> Any:
    """The backward pass of one worker: a part of a kernel, as :func:`forward_through`.

    ``slopes_of``, such as :func:`given_slopes`, gives gradients of a piece's outputs, and ``gradients``, such
    as :func:`leave_gradients`, is called with inputs and gradients of outputs and inputs.
    """

    def backward(arguments: Any, pointer: Any, size: Any) -> None:
        words = carray(arguments, (WORDS,))
        batch, L, H, P, N, together, steps, backward, keep = _sizes(words)
        into, out_of, kept = words[12], words[13], words[17]
        lam, carry = carray(pointer(words[14]), (2 * N,)), carray(pointer(words[15]), (batch, 2 * N))
        initial = carray(pointer(words[20]), (batch, 2 * N))
        slope = carray(float64_pointer(words[21]), (batch, 2 * N))
        begin, end, number, workers = _my_sequences(words)
        count, row_bytes = (L + steps - 1) // steps, 2 * N * size
        room, w = words[18] + 80 * number, words[19] + 2 * number * together * steps * row_bytes
        grad_u, grad_into = words[22], words[23] + number * H * row_bytes
        grad_out_of = words[24] + number * P * row_bytes
        packed_out_of, packed_into = words[27], words[28]
        D, carried = words[25], np.empty(2 * N, lam.dtype)
        share, part = carray(float64_pointer(words[26] + 8 * number * P), (P,)), np.empty(P, lam.dtype)
        if begin == end or L == 0:
            _clear(pointer, grad_into, grad_out_of, 2 * N * H, 2 * N * P)
        if number == 0:  # OpenMP may give fewer workers than were asked for
            for absent in range(workers, words[1]):
                into_at, out_at = grad_into + absent * H * row_bytes, grad_out_of + absent * P * row_bytes
                _clear(pointer, into_at, out_at, 2 * N * H, 2 * N * P)
        for first in range(begin, end, together):
            last = min(first + together, end)
            for step in range(count):
                index = step if backward else count - 1 - step
                here, there = index * steps, min((index + 1) * steps, L)
                row, each = first * L + here, there - here
                rows, begun = (last - first) * each, first > begin or step > 0
                whole = rows == together * steps
                u_rows = inputs(words, number, row, rows, size)
                y_rows = slopes_of(words, number, row, rows, size)
                x = kept + row * row_bytes if keep == STATES else w + together * steps * row_bytes
                if keep == CHECKPOINTS:
                    _multiply(size, room, u_rows, False, into, True, x, rows, 2 * N, H, False)
                states = carray(pointer(x), (last - first, each * 2 * N))
                grads = carray(pointer(w), (last - first, each * 2 * N))
                if y_rows != 0:
                    packed = packed_out_of if whole else 0
                    multiply_by(size, room, y_rows, out_of, False, packed, w, rows, 2 * N, P, False)
                else:
                    grads[:] = 0
                    if not begun:
                        carray(pointer(grad_out_of), (P * 2 * N,))[:] = 0
                for s in range(first, last):
                    before = initial[s]
                    if keep == CHECKPOINTS:
                        before = carray(pointer(kept + (s * count + index) * row_bytes), (2 * N,))
                        carried[:] = before
                        advance(states[s - first], lam, carried, each, N, 0, N, backward)
                    elif step < count - 1:
                        beside = s * L + (there if backward else here - 1)
                        before = carray(pointer(kept + beside * row_bytes), (2 * N,))
                    adjoint(
                        grads[s - first], states[s - first], lam, before, carry[s], slope[s],
                        each, N, 0, N, backward,
                    )  # fmt: skip
                if y_rows != 0:
                    _multiply(size, room, y_rows, True, x, False, grad_out_of, P, 2 * N, rows, begun)
                _multiply(size, room, w, True, u_rows, False, grad_into, 2 * N, H, rows, begun)
                to, direct = grad_u + row * H * size, D != 0 and y_rows != 0
                if direct:
                    given, slopes = carray(pointer(u_rows), (rows, H)), carray(pointer(y_rows), (rows, P))
                    _direct_slopes(given, slopes, part, share)
                    _direct(carray(pointer(D), (P,)), slopes, carray(pointer(to), (rows, H)))
                packed = packed_into if whole else 0
                multiply_by(size, room, w, into, False, packed, to, rows, H, 2 * N, direct)
                gradients(words, number, row, rows, u_rows, y_rows, to)

    return _named(backward, inputs, slopes_of, gradients)


def _named(function: Any, *parts: Any) -> Any:
    """Compiled, with a name of its own.

    The name becomes part of symbols: under one, kernels that two processes put on disk would be confused.
    """
    names = (function.__name__, *(part.py_func.__qualname__ for part in parts))
    function.__name__ = function.__qualname__ = "_".join(names)
    return compiled(function)


_forward = forward_through(given_rows, leave_outputs)
_backward = backward_through(given_rows, given_slopes, leave_gradients)


def forward_float32(arguments: Any) -> None:
    """Kernel. Words: worker, workers, :func:`_sizes`, then addresses in the order read above.

    The last three are those of D, with which P = H, and of ``into`` and ``out_of`` packed for the rows of the
    largest piece; 0 where there is none.
    """
    _forward(arguments, float32_pointer, 4)


def forward_float64(arguments: Any) -> None:
    """Kernel. As :func:`forward_float32`."""
    _forward(arguments, float64_pointer, 8)


def backward_float32(arguments: Any) -> None:
    """Kernel. Words as :func:`forward_float32`, then those of the gradients.

    Of the weights every worker has its own, not yet written, of D a share that starts as zero. The last two
    are ``out_of`` and ``into`` packed.
    """
    _backward(arguments, float32_pointer, 4)


def backward_float64(arguments: Any) -> None:
    """Kernel. As :func:`backward_float32`."""
    _backward(arguments, float64_pointer, 8)
