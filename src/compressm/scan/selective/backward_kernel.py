"""The adjoint of the selective recurrence: Numba kernels.

Layout, types and loops as in the forward kernel. Time runs against the forward pass, chunk by chunk: for one
n after the other the chunk's states are computed anew from the one before it, which stay in the first-level
cache, and then the gradient of the state runs back over them.
"""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.runtime.arrays import ZERO, array, rows, scratch
from compressm.scan.runtime.functions import ONE, exp2, flush, sigmoid
from compressm.scan.runtime.pointers import compiled, float32_pointer, uint16_pointer, worker
from compressm.scan.runtime.vectors import fold, load, load_part, spread, spread_item, store, sum_lanes
from compressm.scan.runtime.widths import HALF, LANES
from compressm.scan.selective.channels import SPACING, make_deltas, read_inputs_and_slopes, slices
from compressm.scan.selective.layout import STEPS

LN2 = np.float32(0.6931471805599453)


@compiled
def _advance(
    h: Any, rate: Any, B: Any, n: Any, stride_B: Any, steps: Any, dt: Any, v: Any, decay: Any, states: Any
) -> None:
    """Decays of each step, and one state of each channel: before the chunk, then after each step."""
    store(states, 0, h)
    for t in range(steps):
        a = exp2(load(dt, t * LANES) * rate)
        h = a * h + load(v, t * LANES) * spread_item(B, t * stride_B + n)
        store(decay, t * LANES, a)
        store(states, (t + 1) * LANES, h)


@compiled
def _pull(
    A: Any, B: Any, stride_B: Any, C: Any, stride_C: Any, before: Any, carry: Any, grad_A: Any, grad_B: Any,
    grad_C: Any, N: Any, steps: Any, padded: Any, dt: Any, v: Any, dy: Any, grad_dt: Any, grad_v: Any,
    memory: Any,
) -> None:  # fmt: skip
    """Carry gradients of states over a chunk, and add up those of everything else.

    ``carry`` is ``a g`` of the step after the chunk, and becomes that of its first step. ``grad_B`` and
    ``grad_C`` are (N, padded) from the chunk's first step on; ``grad_dt`` is what comes by way of the
    decays alone, in units of log 2.
    """
    decay, states, products = memory, memory[SPACING:], memory[2 * SPACING :]
    for n in range(N):
        rate, total, w = load(A, n * LANES), spread(ZERO), flush(load(carry, n * LANES))
        _advance(load(before, n * LANES), rate, B, n, stride_B, steps, dt, v, decay, states)
        for i in range(steps):
            t = steps - 1 - i
            at = t * LANES
            g = w + load(dy, at) * spread_item(C, t * stride_C + n)
            w = load(decay, at) * g
            slope = w * load(states, at)  # of the exponent dt A
            total = total + load(dt, at) * slope
            store(grad_dt, at, load(grad_dt, at) + rate * slope)
            store(grad_v, at, load(grad_v, at) + spread_item(B, t * stride_B + n) * g)
            store(products, t * HALF, fold(load(v, at) * g))
            store(products, (STEPS + t) * HALF, fold(load(dy, at) * load(states, at + LANES)))
        store(carry, n * LANES, w)
        store(grad_A, n * LANES, load(grad_A, n * LANES) + total)
        for t in range(0, steps, HALF):
            at = n * padded + t
            store(grad_B, at, load_part(grad_B, at) + sum_lanes(products, t * HALF))
            store(grad_C, at, load_part(grad_C, at) + sum_lanes(products, (STEPS + t) * HALF))


@compiled
def _read_gradients(
    grad_y: Any, z: Any, stride_z: Any, plain: Any, grad_z: Any, stride_grad_z: Any, start: Any, stride: Any,
    steps: Any, gated: Any, dy: Any, grad_dt: Any, grad_v: Any,
) -> None:  # fmt: skip
    """Gradients ``dy`` of a chunk's outputs as they were before the gate, and those of the gate.

    ``grad_dt`` and ``grad_v``, which are to grow, start as zero.
    ``z`` and ``grad_z`` begin where the chunk does.
    """
    for t in range(steps):
        at = start + t * stride
        g = load(grad_y, at)
        if gated:
            gate = load(z, t * stride_z)
            opened = sigmoid(gate)
            closed = spread(ONE) - opened
            store(grad_z, t * stride_grad_z, g * load(plain, at) * (opened * (spread(ONE) + gate * closed)))
            g = g * (gate * opened)
        store(dy, t * LANES, g)
        store(grad_dt, t * LANES, spread(ZERO))
        store(grad_v, t * LANES, spread(ZERO))


@compiled
def _write_gradients(
    u: Any, D: Any, channel: Any, start: Any, stride: Any, steps: Any, positive: Any, dt: Any, slopes: Any,
    dy: Any, grad_dt: Any, grad_v: Any, grad_u: Any, grad_delta: Any, first: Any, gap: Any, grad_D: Any,
    grad_bias: Any,
) -> None:  # fmt: skip
    """Gradients of a chunk's u and delta, whose rows are ``gap`` apart from ``first`` on.

    Those of D and bias grow; that of delta may go where ``slopes`` lie.
    """
    sum_D, sum_bias = load(grad_D, 0), load(grad_bias, 0)
    for t in range(steps):
        at, here = start + t * stride, t * LANES
        u_t, dy_t, v_t = load(u, at), load(dy, here), load(grad_v, here)
        store(grad_u, at, load(dt, here) * v_t + load(D, channel) * dy_t)
        slope = spread(LN2) * load(grad_dt, here) + u_t * v_t
        if positive:
            slope = slope * load(slopes, here)
        store(grad_delta, first + t * gap, slope)
        sum_D = sum_D + dy_t * u_t
        sum_bias = sum_bias + slope
    store(grad_D, 0, sum_D)
    store(grad_bias, 0, sum_bias)


@compiled
def _pull_deltas(
    grad_delta: Any, low: Any, stride: Any, weight: Any, rank: Any, steps: Any, padded: Any, products: Any,
    grad_low: Any, grad_weight: Any,
) -> None:  # fmt: skip
    """Gradients of what ``make_deltas`` reads grow by a chunk's; ``grad_low`` is (rank, padded)."""
    for r in range(rank):
        w, total = load(weight, r * LANES), spread(ZERO)
        for t in range(steps):
            g = load(grad_delta, t * LANES)
            total = total + g * spread_item(low, t * stride + r)
            store(products, t * HALF, fold(g * w))
        store(grad_weight, r * LANES, load(grad_weight, r * LANES) + total)
        for t in range(0, steps, HALF):
            at = r * padded + t
            store(grad_low, at, load_part(grad_low, at) + sum_lanes(products, t * HALF))


@compiled
def _backward(arguments: Any, pointer: Any) -> None:
    """Kernel of rows at a ``pointer``; gradients in float32 grow from what is there, others are written.

    Words: worker, workers, batch, L, N, blocks, softplus, gated, groups; u, delta, bias, A, B, C, D, z;
    outputs before the gate, states before chunks, gradient of y; gradients of u, delta and z; of what has a
    row for each step, (groups, batch, rank + 2N, chunks STEPS): ``low``, B and C; of what each channel has,
    (batch, blocks, N + rank + 2, LANES): A, ``weight``, D and bias; carry (gradient of the final, then of the
    initial state), (batch, blocks, N, LANES); strides of B, C, z and z's gradient from sequence to sequence
    and from step to step; rank of delta, or 0 where it is given whole, and if it is not: ``low``, its
    strides, and the ``weight`` that it is multiplied by. Delta's gradient is written only where it is whole.
    """
    words = carray(arguments, (39,))
    batch, L, N, blocks = words[2], words[3], words[4], words[5]
    positive, gated, groups = words[6], words[7], words[8]
    channels, size, chunks = blocks * LANES, N * LANES, (L + STEPS - 1) // STEPS
    strips, padded = batch * blocks, chunks * STEPS
    rank, stride_low = words[34], words[37]
    whole = 0 if rank > 0 else 1
    u = carray(pointer(words[9]), (batch, L * channels))
    delta = carray(pointer(words[10]), (batch, whole * L * channels))
    low = slices(pointer(words[35]), words[36], stride_low, batch * (1 - whole), L, rank)
    weight = rows(words[38], blocks, rank * LANES)
    bias, A, D = array(words[11], channels), rows(words[12], blocks, size), array(words[15], channels)
    B, stride_B = slices(pointer(words[13]), words[26], words[27], batch, L, N), words[27]
    C, stride_C = slices(pointer(words[14]), words[28], words[29], batch, L, N), words[29]
    z, stride_z = slices(pointer(words[16]), words[30], words[31], gated * batch, L, channels), words[31]
    plain = carray(pointer(words[17]), (batch, gated * L * channels))
    before, grad_y = rows(words[18], strips, chunks * size), carray(pointer(words[19]), (batch, L * channels))
    grad_u = carray(pointer(words[20]), (batch, L * channels))
    grad_delta = carray(pointer(words[21]), (batch, whole * L * channels))
    grad_z = slices(pointer(words[22]), words[32], words[33], gated * batch, L, channels)
    grad_rows = rows(words[23], groups * batch, (rank + 2 * N) * padded)
    grad_channels = rows(words[24], strips, size + (rank + 2) * LANES)
    carry = rows(words[25], strips, size)
    memory = scratch(9 * SPACING)
    dt, v, dy = memory, memory[SPACING:], memory[2 * SPACING :]
    grad_dt, grad_v, inner = memory[3 * SPACING :], memory[4 * SPACING :], memory[5 * SPACING : 8 * SPACING]
    slopes = memory[8 * SPACING :]
    number, workers = worker(words)
    for item in range(number, batch * groups, workers):
        b, group = item // groups, item % groups
        part = group * batch + b
        for block in range(group * blocks // groups, (group + 1) * blocks // groups):
            channel, strip = block * LANES, b * blocks + block
            grad_A, grad_weight = grad_channels[strip], grad_channels[strip][size:]
            grad_D, grad_bias = grad_weight[rank * LANES :], grad_weight[(rank + 1) * LANES :]
            inner[2 * SPACING :] = ZERO  # the last chunk may be short: its rest adds nothing
            for chunk in range(chunks - 1, -1, -1):
                first = chunk * STEPS
                steps, start = min(STEPS, L - first), first * channels + channel
                grad_low = grad_rows[part][first:]
                grad_B, grad_C = grad_low[rank * padded :], grad_low[(rank + N) * padded :]
                low_here = low[(1 - whole) * (b * words[36] + first * stride_low) :]
                # Two calls, each of one layout, run faster than one of both.
                if rank > 0:
                    make_deltas(low_here, stride_low, weight[block], rank, steps, dt)
                    read_inputs_and_slopes(
                        u[b], start, channels, dt, 0, LANES, bias, channel, steps, positive, dt, v, slopes
                    )
                else:
                    read_inputs_and_slopes(
                        u[b], start, channels, delta[b], start, channels, bias, channel, steps, positive,
                        dt, v, slopes,
                    )  # fmt: skip
                _read_gradients(
                    grad_y[b], z[gated * (b * words[30] + first * stride_z + channel) :], stride_z, plain[b],
                    grad_z[gated * (b * words[32] + first * words[33] + channel) :], words[33], start,
                    channels, steps, gated, dy, grad_dt, grad_v,
                )  # fmt: skip
                _pull(
                    A[block], B[b * words[26] + first * stride_B :], stride_B,
                    C[b * words[28] + first * stride_C :], stride_C, before[strip][chunk * size :],
                    carry[strip], grad_A, grad_B, grad_C, N, steps, padded, dt, v, dy, grad_dt, grad_v, inner,
                )  # fmt: skip
                if rank > 0:
                    _write_gradients(
                        u[b], D, channel, start, channels, steps, positive, dt, slopes, dy, grad_dt, grad_v,
                        grad_u[b], slopes, 0, LANES, grad_D, grad_bias,
                    )  # fmt: skip
                    _pull_deltas(
                        slopes, low_here, stride_low, weight[block], rank, steps, padded,
                        inner[2 * SPACING :], grad_low, grad_weight,
                    )  # fmt: skip
                else:
                    _write_gradients(
                        u[b], D, channel, start, channels, steps, positive, dt, slopes, dy, grad_dt, grad_v,
                        grad_u[b], grad_delta[b], start, channels, grad_D, grad_bias,
                    )  # fmt: skip


def backward_float32(arguments: Any) -> None:
    """Kernel of float32; words of :func:`_backward`."""
    _backward(arguments, float32_pointer)


def backward_bfloat16(arguments: Any) -> None:
    """Kernel of bfloat16; words of :func:`_backward`."""
    _backward(arguments, uint16_pointer)
