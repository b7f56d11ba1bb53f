"""The backward kernel of the selective recurrence, in Triton; operands as in ``triton_kernels.py``.

A program is one warp and takes a segment of time against its course, period by period, for one sequence and
a block of channels. Of the states, those before each period are known: it goes through the period once to
find those before each tile, and then back, tile by tile. Between tiles, adjoints and gradients of A wait in
memory, where the cache has them.
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl

from compressm.scan.runtime.columns import inside_of
from compressm.scan.runtime.triton_functions import sigmoid
from compressm.scan.selective.triton_tiles import (
    LN_2,
    adjoints,
    column_sums,
    lane_places,
    places,
    states,
    tile_of,
    time_steps,
)

UNALIGNED = ["u", "delta", "bias", "z", "A", "D", "grad_y", "kept", "between", "returning"]
UNALIGNED += ["grad_u", "grad_delta", "grad_z", "grad_A", "sums", "grad_D", "grad_bias"]


@triton.jit
def _states_before(kept, stride, room, i, N, BLOCK: tl.constexpr):
    """Where the states before tile i of a period are, and how far those of one n are from the next's."""
    if i == 0:
        at, between = kept, stride
    else:
        at, between = room + (i - 1) * N * BLOCK, BLOCK
    return at, between


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def gradients(
    u, delta, bias, z, A, D, grad_y, kept, returning, grad_u, grad_delta, grad_z, grad_A, grad_D, grad_bias,
    B, C, between, sums, L, N, length, span, channels,
    groups: tl.constexpr, d: tl.constexpr, U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr, Z_ROW: tl.constexpr,
    STEPS: tl.constexpr, PERIOD: tl.constexpr, BLOCK: tl.constexpr,
    SOFTPLUS: tl.constexpr, GATED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Gradients of a segment of ``length`` steps; ``returning`` becomes what leaves it for the past.

    ``between`` is the program's own room for states before tiles, (sequences and groups, segments,
    PERIOD / STEPS - 1, N, BLOCK). A launch serves ``groups`` blocks of channels; pointers, up to B, are to
    its first channel, from which on there are ``channels``. Gradients of B and C are the block's shares, in
    ``sums``, (groups, batch, periods, N, PERIOD) for B and ``span`` elements further for C; those of A,
    (batch, segments, N, d), and of D and the bias, (batch, segments, d), this segment's.
    """
    group = tl.program_id(0) % groups
    sequence, segment = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(1)
    periods = (L + PERIOD - 1) // PERIOD
    lanes = tl.arange(0, BLOCK)
    c = group * BLOCK + lanes
    known = c < channels
    sum_D, sum_bias = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    place = sequence * tl.num_programs(1) + segment
    back_at, slope_at = returning + place * N * d + c, grad_A + place * N * d + c
    room = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + segment
    room = between + room * (PERIOD // STEPS - 1) * N * BLOCK + lanes
    steps = tl.arange(0, STEPS)
    which, step_of_lane, first_lane = lane_places(STEPS)
    lane_at = sums + which * span + step_of_lane
    begin, end = segment * length, tl.minimum(L, segment * length + length)
    stretches = (end - begin + PERIOD - 1) // PERIOD
    for j in tl.range(0, stretches, num_stages=1):
        opening = begin + (stretches - 1 - j) * PERIOD
        tiles = tl.minimum(PERIOD // STEPS, (L - opening + STEPS - 1) // STEPS)
        period = sequence * periods + opening // PERIOD
        for i in tl.range(0, tiles - 1, num_stages=1):
            start = opening + i * STEPS
            first = sequence * L + start
            inside = inside_of(L - start, known, STEPS, EVEN)
            # Registers are scarce: what a tile needs once is not kept from tile to tile.
            shift = tl.load(bias + c, mask=known, other=0.0)
            dt = time_steps(delta, first, c, shift, inside, DELTA_ROW, STEPS, SOFTPLUS)
            v = dt * tile_of(u, first, c, inside, U_ROW, STEPS)
            b_at = B + period * N * PERIOD + i * STEPS + steps
            before, stride = _states_before(kept + period * N * d + c, d, room, i, N, BLOCK)
            for n in tl.range(0, N, num_stages=1):
                rate = tl.load(A + n * d + c, mask=known, other=0.0)
                h = tl.load(before + n * stride, mask=known, other=0.0)
                _, h = states(tl.exp2(dt * rate[None, :]), v * tl.load(b_at + n * PERIOD)[:, None], h)
                tl.store(room + (i * N + n) * BLOCK, h, mask=known)
            tl.debug_barrier()
        for k in tl.range(0, tiles, num_stages=1):
            i = tiles - 1 - k
            start = opening + i * STEPS
            first = sequence * L + start
            inside = inside_of(L - start, known, STEPS, EVEN)
            shift = tl.load(bias + c, mask=known, other=0.0)
            dt = time_steps(delta, first, c, shift, inside, DELTA_ROW, STEPS, SOFTPLUS)
            v = dt * tile_of(u, first, c, inside, U_ROW, STEPS)
            g = tile_of(grad_y, first, c, inside, d, STEPS)
            if GATED:
                gate = tile_of(z, first, c, inside, Z_ROW, STEPS)
                g *= gate * sigmoid(gate)
            plain, grad_v, grad_dt = tl.zeros_like(v), tl.zeros_like(v), tl.zeros_like(v)
            weights = period * N * PERIOD + i * STEPS + steps
            own = (group.to(tl.int64) * (tl.num_programs(0) // groups * periods) + period) * N * PERIOD
            own += i * STEPS
            before, stride = _states_before(kept + period * N * d + c, d, room, i, N, BLOCK)
            going = c < tl.where(start + STEPS < end, channels, 0)
            for n in tl.range(0, N, num_stages=1):
                rate = tl.load(A + n * d + c, mask=known, other=0.0)
                h = tl.load(before + n * stride, mask=known, other=0.0)
                back = tl.load(back_at + n * d, mask=known, other=0.0)
                slope = tl.load(slope_at + n * d, mask=going, other=0.0)
                b = tl.load(B + weights + n * PERIOD)
                weight = tl.load(C + weights + n * PERIOD)
                decay = tl.exp2(dt * rate[None, :])
                added = v * b[:, None]
                tile, _ = states(decay, added, h)
                w, back = adjoints(decay, g * weight[:, None], back)
                plain += weight[:, None] * tile
                grad_v += b[:, None] * w
                # What was left of the state before, times its adjoint.
                left = (tile - added) * w
                grad_dt += (rate * LN_2)[None, :] * left
                tl.store(slope_at + n * d, slope + tl.sum(dt * left, axis=0), mask=known)
                tl.store(back_at + n * d, back, mask=known)
                tl.store(lane_at + own + n * PERIOD, column_sums(w * v, g * tile), mask=first_lane)
            x = tile_of(u, first, c, inside, U_ROW, STEPS)
            direct = tl.load(D + c, mask=known, other=0.0)
            grad_dt += grad_v * x
            if SOFTPLUS:
                shift = tl.load(bias + c, mask=known, other=0.0)
                grad_dt *= sigmoid(tile_of(delta, first, c, inside, DELTA_ROW, STEPS) + shift[None, :])
            tl.store(places(grad_u, first, c, d, STEPS), grad_v * dt + direct[None, :] * g, mask=inside)
            tl.store(places(grad_delta, first, c, d, STEPS), grad_dt, mask=inside)
            if GATED:
                given = tile_of(grad_y, first, c, inside, d, STEPS)
                gate = tile_of(z, first, c, inside, Z_ROW, STEPS)
                open_ = sigmoid(gate)
                slope_z = open_ * (1.0 + gate * (1.0 - open_))
                tl.store(
                    places(grad_z, first, c, d, STEPS),
                    given * (plain + x * direct[None, :]) * slope_z,
                    mask=inside,
                )
            sum_D += tl.sum(g * x, axis=0)
            sum_bias += tl.sum(tl.where(inside, grad_dt, 0.0), axis=0)
            tl.debug_barrier()
    tl.store(grad_D + place * d + c, sum_D, mask=known)
    tl.store(grad_bias + place * d + c, sum_bias, mask=known)
