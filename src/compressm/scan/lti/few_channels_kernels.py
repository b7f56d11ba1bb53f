"""The recurrence for few channels, float32: Numba kernels of products and recurrence in one.

Time is cut into chunks, states into blocks. For each chunk and block, inputs are projected, the recurrence
runs and outputs are collected while everything lies in the first-level cache; the states of a chunk are never
written anywhere else. The backward pass computes them anew from the state before the chunk, which the forward
pass keeps.

Time runs as the recurrence does: rows of channels are copied in that order from u and to y. Work is divided
by sequences, and by blocks of states where sequences are fewer than workers.
"""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.lti.few_channels_layout import STEPS
from compressm.scan.lti.tiles import TILE, adjoint, advance, collect, correlate, project
from compressm.scan.runtime.arrays import ZERO, array, copy_row, rows, scratch
from compressm.scan.runtime.pointers import compiled, float64_pointer, worker
from compressm.scan.runtime.vectors import load, store
from compressm.scan.runtime.widths import HALF, LANES, OCTET


@compiled
def _width(channels: Any) -> Any:
    """Numbers from one row of channels to the next: whole octets."""
    return (channels + OCTET - 1) // OCTET * OCTET


@compiled
def _whole(steps: Any) -> Any:
    return (steps + TILE - 1) // TILE * TILE


@compiled
def _read(x: Any, L: Any, channels: Any, start: Any, steps: Any, backward: Any, out: Any, width: Any) -> None:
    """Rows ``start`` to ``start + steps`` in the recurrence's time, then zeros to whole tiles."""
    for k in range(steps):
        t = L - 1 - start - k if backward else start + k
        copy_row(x, t * channels, channels, out, k * width)
    out[steps * width : _whole(steps) * width] = ZERO


@compiled
def _write(rows: Any, width: Any, L: Any, channels: Any, start: Any, steps: Any, backward: Any,
           out: Any) -> None:  # fmt: skip
    """What :func:`_read` reads, back."""
    for k in range(steps):
        t = L - 1 - start - k if backward else start + k
        copy_row(rows, k * width, channels, out, t * channels)


@compiled
def _pack_vector(x: Any, N: Any, out: Any) -> None:
    """N real parts and N imaginary parts, to blocks; the rest is zeroed: an overflow may have left it."""
    out[:] = ZERO
    for n in range(N):
        at = n // HALF * LANES + n % HALF
        out[at], out[at + HALF] = x[n], x[N + n]


@compiled
def _unpack_vector(packed: Any, N: Any, first: Any, last: Any, out: Any) -> None:
    """The states of blocks ``first`` to ``last``, from blocks."""
    for n in range(first * HALF, min(last * HALF, N)):
        at = n // HALF * LANES + n % HALF
        out[n], out[N + n] = packed[at], packed[at + HALF]


@compiled
def _by_rows(B: Any, N: Any, H: Any, width: Any) -> Any:
    """B (2, N, H), a vector for each channel of a block."""
    out = scratch((N + HALF - 1) // HALF * width * LANES)
    for n in range(N):
        at = n // HALF * width * LANES + n % HALF
        for h in range(H):
            out[at + h * LANES], out[at + h * LANES + HALF] = B[n * H + h], B[(N + n) * H + h]
    return out


@compiled
def _by_columns(B: Any, N: Any, H: Any, width: Any) -> Any:
    """B (2, N, H), a row of channels for each number of a block."""
    out = scratch((N + HALF - 1) // HALF * width * LANES)
    for n in range(N):
        at = (n // HALF * LANES + n % HALF) * width
        for h in range(H):
            out[at + h], out[at + HALF * width + h] = B[n * H + h], B[(N + n) * H + h]
    return out


@compiled
def _transposed(C: Any, N: Any, P: Any) -> Any:
    """(2, N, P) such that ``[Re x, Im x]`` times it is ``Re(C x)``, from C (2, P, N)."""
    out = np.empty(2 * N * P, np.float32)
    for p in range(P):
        for n in range(N):
            out[n * P + p], out[(N + n) * P + p] = C[p * N + n], -C[(P + p) * N + n]
    return out


@compiled
def _sizes(words: Any) -> Any:
    """Batch, L, H, P, N, whether time runs backwards, whether states are kept, columns of work."""
    return words[2], words[3], words[4], words[5], words[6], words[7], words[8], words[9]


def forward(arguments: Any) -> None:
    """Kernel. Words: worker, workers, :func:`_sizes`; u, lambda, B, C, carry, y, states kept.

    Carry (batch, 2 N) becomes the final state. Outputs are (columns, batch, L, P), to be summed over columns;
    states before chunks (batch, chunks, blocks, LANES).
    """
    words = carray(arguments, (17,))
    batch, L, H, P, N, backward, keep, columns = _sizes(words)
    blocks, count = (N + HALF - 1) // HALF, (L + STEPS - 1) // STEPS
    u, carry = rows(words[10], batch, L * H), rows(words[14], batch, 2 * N)
    y = rows(words[15], columns * batch, L * P)
    kept = rows(words[16], keep * batch * count, blocks * LANES)
    H_width, P_width = _width(H), _width(P)
    lam = scratch(blocks * LANES)
    _pack_vector(array(words[11], 2 * N), N, lam)
    into = _by_rows(array(words[12], 2 * N * H), N, H, H_width)
    out_of = _by_columns(_transposed(array(words[13], 2 * N * P), N, P), N, P, P_width)
    state, inputs = scratch(blocks * LANES), scratch(STEPS * H_width)
    outputs, block = scratch(STEPS * P_width), scratch(STEPS * LANES)
    number, workers = worker(words)
    for item in range(number, batch * columns, workers):
        s, column = item // columns, item % columns
        first, last = blocks * column // columns, blocks * (column + 1) // columns
        _pack_vector(carry[s], N, state)
        for index in range(count):
            start = index * STEPS
            steps = min(STEPS, L - start)
            _read(u[s], L, H, start, steps, backward, inputs, H_width)
            outputs[:] = 0
            if keep:
                for at in range(first * LANES, last * LANES, LANES):
                    store(kept[s * count + index], at, load(state, at))
            for b in range(first, last):
                project(inputs, H_width, H, into[b * H_width * LANES :], block, _whole(steps))
                advance(block, lam[b * LANES :], state[b * LANES :], steps)
                collect(block, out_of[b * P_width * LANES :], outputs, P_width, _whole(steps))
            _write(outputs, P_width, L, P, start, steps, backward, y[column * batch + s])
        _unpack_vector(state, N, first, last, carry[s])


def backward(arguments: Any) -> None:
    """Kernel. Words: as :func:`forward` to the states kept (y: its gradient, or 0), then gradients.

    Those of u (columns, batch, L, H), to be summed over columns, and of each worker's share: lambda (workers,
    2 N; float64), B (workers, 2, N, H) and C (workers, 2, P, N), which begin as zeros. Carry begins as the
    gradient of the final state, and becomes ``conj(lambda) w`` of the first step.
    """
    words = carray(arguments, (21,))
    batch, L, H, P, N, backward, _, columns = _sizes(words)
    blocks, count = (N + HALF - 1) // HALF, (L + STEPS - 1) // STEPS
    u, carry = rows(words[10], batch, L * H), rows(words[14], batch, 2 * N)
    has_outputs = words[15] != 0
    grad_y = rows(words[15], batch if has_outputs else 0, L * P)
    kept, grad_u = rows(words[16], batch * count, blocks * LANES), rows(words[17], columns * batch, L * H)
    H_width, P_width = _width(H), _width(P)
    lam = scratch(blocks * LANES)
    _pack_vector(array(words[11], 2 * N), N, lam)
    B, C = array(words[12], 2 * N * H), _transposed(array(words[13], 2 * N * P), N, P)
    into, back_to_u = _by_rows(B, N, H, H_width), _by_columns(B, N, H, H_width)
    back_to_x = _by_rows(C, N, P, P_width)
    sums_B, sums_C = scratch(blocks * H_width * LANES), scratch(blocks * P_width * LANES)
    slopes, slope = np.zeros(blocks * LANES, np.float64), scratch(LANES)
    adjoints, inputs = scratch(blocks * LANES), scratch(STEPS * H_width)
    errors, outputs = scratch(STEPS * P_width), scratch(STEPS * H_width)
    states, block = scratch((STEPS + 1) * LANES), scratch(STEPS * LANES)
    number, workers = worker(words)
    for item in range(number, batch * columns, workers):
        s, column = item // columns, item % columns
        first, last = blocks * column // columns, blocks * (column + 1) // columns
        _pack_vector(carry[s], N, adjoints)
        for index in range(count - 1, -1, -1):
            start = index * STEPS
            steps = min(STEPS, L - start)
            _read(u[s], L, H, start, steps, backward, inputs, H_width)
            if has_outputs:
                _read(grad_y[s], L, P, start, steps, backward, errors, P_width)
            outputs[:] = 0
            for b in range(first, last):
                at, to_B, to_C = b * LANES, b * H_width * LANES, b * P_width * LANES
                project(inputs, H_width, H, into[to_B:], states[LANES:], _whole(steps))
                store(states, 0, load(kept[s * count + index], at))
                advance(states[LANES:], lam[at:], states, steps)
                store(states, 0, load(kept[s * count + index], at))
                project(errors, P_width, P, back_to_x[to_C:], block, _whole(steps))
                adjoint(block, states, lam[at:], adjoints[at:], slope, steps)
                for j in range(LANES):
                    slopes[at + j] += slope[j]
                correlate(inputs, H_width, H, block, sums_B[to_B:], steps)
                if has_outputs:
                    correlate(errors, P_width, P, states[LANES:], sums_C[to_C:], steps)
                collect(block, back_to_u[to_B:], outputs, H_width, _whole(steps))
            _write(outputs, H_width, L, H, start, steps, backward, grad_u[column * batch + s])
        _unpack_vector(adjoints, N, first, last, carry[s])
    _share(words, number, slopes, sums_B, sums_C)


@compiled
def _share(words: Any, number: Any, slopes: Any, sums_B: Any, sums_C: Any) -> None:
    """Write a worker's sums to where the caller adds them up."""
    H, P, N = words[4], words[5], words[6]
    grad_lam = carray(float64_pointer(words[18] + number * 16 * N), (2 * N,))
    grad_B = array(words[19] + number * 8 * N * H, 2 * N * H)
    grad_C = array(words[20] + number * 8 * N * P, 2 * N * P)
    _unpack_vector(slopes, N, 0, N, grad_lam)
    for n in range(N):
        b, lane = n // HALF, n % HALF
        for h in range(H):
            at = (b * _width(H) + h) * LANES + lane
            grad_B[n * H + h], grad_B[(N + n) * H + h] = sums_B[at], sums_B[at + HALF]
        for p in range(P):
            at = (b * _width(P) + p) * LANES + lane
            grad_C[p * N + n], grad_C[(P + p) * N + n] = sums_C[at], -sums_C[at + HALF]
