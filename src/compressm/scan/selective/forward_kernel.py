"""The selective recurrence: Numba kernels.

A vector holds one state of LANES neighbouring channels, so any number of states costs its share, and time is
cut into chunks whose inputs and outputs stay in the first-level cache. Within a chunk the loop over states is
outside and the loop over time inside: the running state never leaves its registers.

Layout: u, delta, z, y (batch, L, channels), channels padded to whole vectors; B, C (batch, L, N); rows of z,
B and C may be parts of longer ones, as slices of a projection are. A, in units of log 2, (blocks, N, LANES);
states (batch, blocks, N, LANES); states before chunks (batch, blocks, chunks, N, LANES). What has a row for
each step is float32 or bfloat16, everything else, arithmetic included, is float32.
"""

from typing import Any

from numba import carray

from compressm.scan.runtime.arrays import array, rows, scratch
from compressm.scan.runtime.functions import exp2, flush, sigmoid
from compressm.scan.runtime.pointers import compiled, float32_pointer, uint16_pointer, worker
from compressm.scan.runtime.vectors import load, spread_item, store
from compressm.scan.runtime.widths import LANES
from compressm.scan.selective.channels import SPACING, make_deltas, read_inputs, slices
from compressm.scan.selective.layout import STEPS


@compiled
def _advance(
    A: Any, B: Any, stride_B: Any, C: Any, stride_C: Any, state: Any, before: Any, keep: Any, N: Any,
    steps: Any, dt: Any, v: Any, y: Any,
) -> None:  # fmt: skip
    """Carry ``state`` over a chunk and add ``C h`` to ``y``; ``B`` and ``C`` start at its first step."""
    for n in range(N):
        h, rate = flush(load(state, n * LANES)), load(A, n * LANES)
        if keep:
            store(before, n * LANES, h)
        for t in range(steps):
            h = exp2(load(dt, t * LANES) * rate) * h + load(v, t * LANES) * spread_item(B, t * stride_B + n)
            store(y, t * LANES, load(y, t * LANES) + h * spread_item(C, t * stride_C + n))
        store(state, n * LANES, h)


@compiled
def _write_outputs(
    out: Any, z: Any, stride_z: Any, y: Any, plain: Any, start: Any, stride: Any, steps: Any, gated: Any,
    keep: Any,
) -> None:  # fmt: skip
    """Outputs of a chunk, through the gate if there is one; ``plain`` keeps them as they were before.

    ``z`` begins where the chunk does.
    """
    for t in range(steps):
        at = start + t * stride
        value = load(out, t * LANES)
        if gated:
            gate = load(z, t * stride_z)
            if keep:
                store(plain, at, value)
            value = value * (gate * sigmoid(gate))
        store(y, at, value)


@compiled
def _forward(arguments: Any, pointer: Any) -> None:
    """Kernel of rows at a ``pointer``; what is kept is for the backward pass.

    Words: worker, workers, batch, L, N, blocks, softplus, gated, keep; u, delta, bias, A, B, C, D, z; y,
    outputs before the gate, state (before, then after), states before chunks; strides of B, C and z from
    sequence to sequence and from step to step; rank of delta, or 0 where it is given whole, and if it is not:
    ``low`` (batch, L, rank), its strides, and what it is multiplied by, (blocks, rank, LANES).
    """
    words = carray(arguments, (32,))
    batch, L, N, blocks = words[2], words[3], words[4], words[5]
    positive, gated, keep = words[6], words[7], words[8]
    channels, size, chunks = blocks * LANES, N * LANES, (L + STEPS - 1) // STEPS
    rank, stride_low = words[27], words[30]
    whole = 0 if rank > 0 else 1
    u = carray(pointer(words[9]), (batch, L * channels))
    delta = carray(pointer(words[10]), (batch, whole * L * channels))
    low = slices(pointer(words[28]), words[29], stride_low, batch * (1 - whole), L, rank)
    weight = rows(words[31], blocks, rank * LANES)
    bias, A, D = array(words[11], channels), rows(words[12], blocks, size), array(words[15], channels)
    B, stride_B = slices(pointer(words[13]), words[21], words[22], batch, L, N), words[22]
    C, stride_C = slices(pointer(words[14]), words[23], words[24], batch, L, N), words[24]
    z, stride_z = slices(pointer(words[16]), words[25], words[26], gated * batch, L, channels), words[26]
    y = carray(pointer(words[17]), (batch, L * channels))
    plain = carray(pointer(words[18]), (batch, gated * keep * L * channels))
    state = rows(words[19], batch * blocks, size)
    before = rows(words[20], batch * blocks, keep * chunks * size)
    memory = scratch(3 * SPACING)
    dt, v, out = memory, memory[SPACING:], memory[2 * SPACING :]
    number, workers = worker(words)
    for strip in range(number, batch * blocks, workers):
        b, block = strip // blocks, strip % blocks
        for chunk in range(chunks):
            first = chunk * STEPS
            steps, start = min(STEPS, L - first), first * channels + block * LANES
            # Two calls, each of one layout, run faster than one of both.
            if rank > 0:
                make_deltas(
                    low[b * words[29] + first * stride_low :], stride_low, weight[block], rank, steps, dt
                )
                read_inputs(u[b], start, channels, dt, 0, LANES, bias, block * LANES, steps, positive, dt, v)
            else:
                read_inputs(
                    u[b], start, channels, delta[b], start, channels, bias, block * LANES, steps, positive,
                    dt, v,
                )  # fmt: skip
            for t in range(steps):
                store(out, t * LANES, load(D, block * LANES) * load(u[b], start + t * channels))
            _advance(
                A[block], B[b * words[21] + first * stride_B :], stride_B,
                C[b * words[23] + first * stride_C :], stride_C, state[strip],
                before[strip][keep * chunk * size :], keep, N, steps, dt, v, out,
            )  # fmt: skip
            gate = z[gated * (b * words[25] + first * stride_z + block * LANES) :]
            _write_outputs(out, gate, stride_z, y[b], plain[b], start, channels, steps, gated, keep)


def forward_float32(arguments: Any) -> None:
    """Kernel of float32; words of :func:`_forward`."""
    _forward(arguments, float32_pointer)


def forward_bfloat16(arguments: Any) -> None:
    """Kernel of bfloat16; words of :func:`_forward`."""
    _forward(arguments, uint16_pointer)
