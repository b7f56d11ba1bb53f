"""Forward kernels of the selective recurrence, in Triton, and the ends of segments for both directions.

A program is one warp and takes a segment of time, tile by tile, for one sequence and a block of channels. A
tile's inputs are read once for all N states, which follow one after the other; between tiles, states wait in
memory, where the cache has them. While one state is worked on, the operands of the next are under way, so N
is even: an odd one gets a state that is always 0.

Rows of u, delta and z are float32 or bfloat16 and may be parts of longer ones; they become float32 in
registers. Time is cut into periods, over which B and C are packed: (batch, periods, N, PERIOD), with 0 behind
the last step. A is (N, d) and times log2(e). States at segments' borders are (batch, segments, N, d), states
that the backward pass starts from (batch, periods, N, d).
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl

from compressm.scan.runtime.columns import inside_of, row
from compressm.scan.runtime.triton_functions import sigmoid
from compressm.scan.selective.triton_tiles import places, states, tile_of, time_steps

UNALIGNED = ["u", "x", "delta", "bias", "z", "D", "y", "A", "ends", "totals", "entering", "kept"]


@triton.jit
def _operands(A, B, C, packed, state, n, known, d: tl.constexpr, STEPS: tl.constexpr, PERIOD: tl.constexpr):
    """What a tile needs for state n: its rate, B and C of all steps, and the state before."""
    steps = tl.arange(0, STEPS)
    rate = tl.load(A + n * d, mask=known, other=0.0)
    h = tl.load(state + n * d, mask=known, other=0.0)
    return rate, tl.load(B + packed + n * PERIOD + steps), tl.load(C + packed + n * PERIOD + steps), h


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def outputs(
    u, delta, bias, z, A, B, C, D, entering, kept, y, L, N, length,
    d: tl.constexpr, U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr, Z_ROW: tl.constexpr,
    STEPS: tl.constexpr, PERIOD: tl.constexpr, BLOCK: tl.constexpr,
    SOFTPLUS: tl.constexpr, GATED: tl.constexpr, KEEP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Outputs of a segment of ``length`` steps; ``entering`` becomes what leaves it.

    With KEEP, states before each period go to ``kept``.
    """
    blocks: tl.constexpr = (d + BLOCK - 1) // BLOCK
    sequence, segment = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    periods = (L + PERIOD - 1) // PERIOD
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    known = c < d
    shift = tl.load(bias + c, mask=known, other=0.0)
    direct = tl.load(D + c, mask=known, other=0.0)
    state = entering + (sequence * tl.num_programs(1) + segment) * N * d + c
    begin = segment * length
    for start in tl.range(begin, tl.minimum(L, begin + length), STEPS, num_stages=1):
        first = sequence * L + start
        inside = inside_of(L - start, known, STEPS, EVEN)
        dt = time_steps(delta, first, c, shift, inside, DELTA_ROW, STEPS, SOFTPLUS)
        x = tile_of(u, first, c, inside, U_ROW, STEPS)
        if GATED:
            gate = tile_of(z, first, c, inside, Z_ROW, STEPS)
        out = x * direct[None, :]
        x *= dt
        since = tl.multiple_of(start % PERIOD, STEPS)
        period = sequence * periods + start // PERIOD
        packed = period * N * PERIOD + since
        keep_at, keeps = kept + period * N * d + c, c < tl.where(since == 0, d, 0)
        rate, b, weight, h = _operands(A + c, B, C, packed, state, 0, known, d, STEPS, PERIOD)
        for n in tl.range(0, N, 2, num_stages=1):
            next_rate, next_b, next_weight, next_h = _operands(
                A + c, B, C, packed, state, n + 1, known, d, STEPS, PERIOD
            )
            if KEEP:
                tl.store(keep_at + n * d, h, mask=keeps)
            tile, h = states(tl.exp2(dt * rate[None, :]), x * b[:, None], h)
            out += weight[:, None] * tile
            tl.store(state + n * d, h, mask=known)
            # Behind the last pair, something that is there and is not used.
            later = tl.minimum(n + 2, N - 1)
            rate, b, weight, h = _operands(A + c, B, C, packed, state, later, known, d, STEPS, PERIOD)
            if KEEP:
                tl.store(keep_at + (n + 1) * d, next_h, mask=keeps)
            tile, next_h = states(tl.exp2(dt * next_rate[None, :]), x * next_b[:, None], next_h)
            out += next_weight[:, None] * tile
            tl.store(state + (n + 1) * d, next_h, mask=known)
        if GATED:
            out *= gate * sigmoid(gate)
        tl.store(places(y, first, c, d, STEPS), out, mask=inside)
        # States are read by the threads that wrote them; this says so to those who order memory.
        tl.debug_barrier()


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def segment_ends(
    x, delta, bias, z, A, weights, ends, totals, L, N, length,
    d: tl.constexpr, X_ROW: tl.constexpr, DELTA_ROW: tl.constexpr, Z_ROW: tl.constexpr,
    STEPS: tl.constexpr, PERIOD: tl.constexpr, BLOCK: tl.constexpr,
    SOFTPLUS: tl.constexpr, GATED: tl.constexpr, ADJOINT: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """What leaves each segment if nothing enters it, and the sum of its time steps, (batch, segments, d).

    Forward, x are inputs u, ``weights`` is B, and what leaves are states. With ADJOINT, x are gradients of
    the outputs (of the gated ones with GATED), ``weights`` is C, and what leaves, towards the past, are
    gradients. The segment whose end nobody enters is left out: programs are for all but the last, with
    ADJOINT for all but the first.
    """
    blocks: tl.constexpr = (d + BLOCK - 1) // BLOCK
    sequence, segment = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    if ADJOINT:
        segment += 1
    periods = (L + PERIOD - 1) // PERIOD
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    known = c < d
    shift = tl.load(bias + c, mask=known, other=0.0)
    total = tl.zeros_like(shift)
    place = sequence * (tl.num_programs(1) + 1) + segment
    begin = segment * length
    tiles = (tl.minimum(L, begin + length) - begin + STEPS - 1) // STEPS
    for i in tl.range(0, tiles, num_stages=1):
        start = begin + (tiles - 1 - i if ADJOINT else i) * STEPS
        first = sequence * L + start
        inside = inside_of(L - start, known, STEPS, EVEN)
        dt = time_steps(delta, first, c, shift, inside, DELTA_ROW, STEPS, SOFTPLUS)
        total += tl.sum(dt, axis=0)
        value = tile_of(x, first, c, inside, X_ROW, STEPS)
        if ADJOINT:
            if GATED:
                gate = tile_of(z, first, c, inside, Z_ROW, STEPS)
                value *= gate * sigmoid(gate)
        else:
            value *= dt
        since = tl.multiple_of(start % PERIOD, STEPS)
        weight_at = weights + (sequence * periods + start // PERIOD) * N * PERIOD + since
        weight_at += tl.arange(0, STEPS)
        # Nothing enters the first tile, and memory holds nothing for it.
        entered = c < tl.where(i * tiles > 0, d, 0)
        for n in tl.range(0, N, num_stages=1):
            rate = tl.load(A + n * d + c, mask=known, other=0.0)
            weight = tl.load(weight_at + n * PERIOD)
            end = tl.load(ends + (place * N + n) * d + c, mask=entered, other=0.0)
            decay = tl.exp2(dt * rate[None, :])
            added = value * weight[:, None]
            for t in tl.static_range(STEPS):
                if ADJOINT:
                    end = row(decay, STEPS - 1 - t) * (row(added, STEPS - 1 - t) + end)
                else:
                    end = row(decay, t) * end + row(added, t)
            tl.store(ends + (place * N + n) * d + c, end, mask=known)
        tl.debug_barrier()
    tl.store(totals + place * d + c, total, mask=known)


@triton.jit
def carry(
    ends, totals, A, initial, N, segments,
    d: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Turn what leaves each segment from a zero start into what enters it, in place."""
    blocks: tl.constexpr = (d + BLOCK - 1) // BLOCK
    sequence, n = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    known = c < d
    rate = tl.load(A + n * d + c, mask=known, other=0.0)
    h = tl.load(initial + (sequence * N + n) * d + c, mask=known, other=0.0)
    for i in tl.range(0, segments, num_stages=STAGES):
        place = sequence * segments + (segments - 1 - i if ADJOINT else i)
        # Nobody looks at what leaves the last, and nothing was made of it.
        more = c < tl.where(i < segments - 1, d, 0)
        total = tl.load(totals + place * d + c, mask=more, other=0.0)
        end = tl.load(ends + (place * N + n) * d + c, mask=more, other=0.0)
        tl.store(ends + (place * N + n) * d + c, h, mask=known)
        h = tl.exp2(rate * total) * h + end
