"""Kernels of the selective recurrence, in Triton: a program per sequence, chunk of time, block of channels.

A program holds tiles of STEPS steps by BLOCK channels in registers and takes one state index n after the
other: every tile is read once for all N states, and N is padded to nothing. Along time, states are a scan of
pairs ``(decay, input)``. Steps beyond the sequence have a time step of 0: they decay nothing and add nothing.

B and C come as (batch, N, L), A as (N, d) and times log2(e), states of chunks as (batch, chunks, N, d).
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl

LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _after(decay, x, next_decay, next_x):
    """One stretch of the recurrence after another: the scan's combination."""
    return decay * next_decay, next_decay * x + next_x


@triton.jit
def _softplus(x):
    """``log(1 + exp(x))``; the series of the inverse hyperbolic tangent keeps the digits of small results."""
    w = tl.exp(-tl.abs(x))
    s = w / (2.0 + w)
    q = s * s
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13))))))
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def _time_steps(delta, bias, at, inside, SOFTPLUS: tl.constexpr):
    """Time steps of a tile, and what they were before the softplus."""
    raw = tl.load(delta + at, mask=inside, other=0.0) + bias[None, :]
    step = raw
    if SOFTPLUS:
        step = _softplus(raw)
    return tl.where(inside, step, 0.0), raw


@triton.jit
def chunk_ends(
    x, delta, bias, z, A, weights, ends, totals, L, d, N, blocks, chunks,
    STEPS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, SOFTPLUS: tl.constexpr,
    GATED: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """What leaves each chunk if nothing enters it, and the sum of its time steps, (batch, chunks, d).

    Forward, x are inputs u, ``weights`` is B, and what leaves are states. With ADJOINT, x are gradients of
    the outputs (of the gated ones with GATED), ``weights`` is C, and what leaves, towards the past, are
    gradients. Either way it is a sum over steps, each decayed by the time between it and the border. That
    time is summed up from the border, so that it is exact where the decay leaves something.
    """
    row, chunk = tl.program_id(1).to(tl.int64), tl.program_id(0) // blocks
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    rows = chunk * STEPS + tl.arange(0, STEPS)
    known = c < d
    inside = (rows < L)[:, None] & known[None, :]
    at = (row * L + rows)[:, None] * d + c[None, :]
    dt, _ = _time_steps(delta, tl.load(bias + c, mask=known, other=0.0), at, inside, SOFTPLUS)
    value = tl.load(x + at, mask=inside, other=0.0)
    if ADJOINT:
        between = tl.cumsum(dt, axis=0)
        if GATED:
            gate = tl.load(z + at, mask=inside, other=0.0)
            value = value * gate * tl.sigmoid(gate)
    else:
        between = tl.cumsum(dt, axis=0, reverse=True) - dt
        value = value * dt
    place = row * chunks + chunk
    tl.store(totals + place * d + c, tl.sum(dt, axis=0), mask=known)
    for n in tl.range(0, N, num_stages=STAGES):
        rate = tl.load(A + n * d + c, mask=known, other=0.0)
        weight = tl.load(weights + (row * N + n) * L + rows, mask=rows < L, other=0.0)
        end = tl.sum(tl.exp2(between * rate[None, :]) * value * weight[:, None], axis=0)
        tl.store(ends + (place * N + n) * d + c, end, mask=known)


@triton.jit
def carry(
    ends, totals, A, initial, final, d, N, blocks, chunks,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Turn what leaves each chunk from a zero start into what enters it, in place; what leaves the last."""
    row, n = tl.program_id(1).to(tl.int64), tl.program_id(0) // blocks
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    known = c < d
    rate = tl.load(A + n * d + c, mask=known, other=0.0)
    h = tl.load(initial + (row * N + n) * d + c, mask=known, other=0.0)
    for i in tl.range(0, chunks, num_stages=STAGES):
        place = row * chunks + (chunks - 1 - i if ADJOINT else i)
        total = tl.load(totals + place * d + c, mask=known, other=0.0)
        end = tl.load(ends + (place * N + n) * d + c, mask=known, other=0.0)
        tl.store(ends + (place * N + n) * d + c, h, mask=known)
        h = tl.exp2(rate * total) * h + end
    tl.store(final + (row * N + n) * d + c, h, mask=known)


@triton.jit
def outputs(
    u, delta, bias, z, A, B, C, D, entering, y, L, d, N, blocks, chunks,
    STEPS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, SOFTPLUS: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """Outputs of a chunk, from the states that enter it."""
    row, chunk = tl.program_id(1).to(tl.int64), tl.program_id(0) // blocks
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    rows = chunk * STEPS + tl.arange(0, STEPS)
    known, within = c < d, rows < L
    inside = within[:, None] & known[None, :]
    at = (row * L + rows)[:, None] * d + c[None, :]
    dt, _ = _time_steps(delta, tl.load(bias + c, mask=known, other=0.0), at, inside, SOFTPLUS)
    value = tl.load(u + at, mask=inside, other=0.0)
    out = value * tl.load(D + c, mask=known, other=0.0)[None, :]
    value = value * dt
    for n in tl.range(0, N, num_stages=STAGES):
        rate = tl.load(A + n * d + c, mask=known, other=0.0)
        b = tl.load(B + (row * N + n) * L + rows, mask=within, other=0.0)
        weight = tl.load(C + (row * N + n) * L + rows, mask=within, other=0.0)
        start = tl.load(entering + ((row * chunks + chunk) * N + n) * d + c, mask=known, other=0.0)
        decay, h = tl.associative_scan((tl.exp2(dt * rate[None, :]), value * b[:, None]), 0, _after)
        out += weight[:, None] * (h + decay * start[None, :])
    if GATED:
        gate = tl.load(z + at, mask=inside, other=0.0)
        out = out * gate * tl.sigmoid(gate)
    tl.store(y + at, out, mask=inside)


@triton.jit
def gradients(
    u, delta, bias, z, A, B, C, D, grad_y, entering, returning,
    grad_u, grad_delta, grad_z, grad_A, grad_B, grad_C, grad_D, grad_bias, L, d, N, chunks, parts,
    STEPS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, SOFTPLUS: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk, from states that enter it and gradients that enter it from the future.

    A program takes ``parts`` blocks of channels, one after the other, and adds up their gradients of B and C
    in its own place, (groups of blocks, batch, N, L). Those of A, D and the bias are this chunk's share.
    """
    groups = tl.num_programs(0) // chunks
    row, chunk, group = tl.program_id(1).to(tl.int64), tl.program_id(0) // groups, tl.program_id(0) % groups
    rows = chunk * STEPS + tl.arange(0, STEPS)
    within = rows < L
    followed = rows + 1 < tl.minimum(L, chunk * STEPS + STEPS)
    place = row * chunks + chunk
    own = (group * tl.num_programs(1) + row) * N
    for part in range(parts):
        c = (group * parts + part) * BLOCK + tl.arange(0, BLOCK)
        known = c < d
        inside = within[:, None] & known[None, :]
        at = (row * L + rows)[:, None] * d + c[None, :]
        shift = tl.load(bias + c, mask=known, other=0.0)
        dt, raw = _time_steps(delta, shift, at, inside, SOFTPLUS)
        # Decays between a step and the next; none behind the last, whose future enters as it is.
        dt_next, _ = _time_steps(delta, shift, at + d, followed[:, None] & known[None, :], SOFTPLUS)
        x = tl.load(u + at, mask=inside, other=0.0)
        direct = tl.load(D + c, mask=known, other=0.0)[None, :]
        given = tl.load(grad_y + at, mask=inside, other=0.0)
        g = given
        if GATED:
            gate = tl.load(z + at, mask=inside, other=0.0)
            g = given * gate * tl.sigmoid(gate)
        v = dt * x
        plain = direct * x
        grad_v = tl.zeros_like(x)
        grad_dt = tl.zeros_like(x)
        for n in tl.range(0, N, num_stages=STAGES):
            rate = tl.load(A + n * d + c, mask=known, other=0.0)
            b = tl.load(B + (row * N + n) * L + rows, mask=within, other=0.0)
            weight = tl.load(C + (row * N + n) * L + rows, mask=within, other=0.0)
            start = tl.load(entering + (place * N + n) * d + c, mask=known, other=0.0)
            end = tl.load(returning + (place * N + n) * d + c, mask=known, other=0.0)
            added = v * b[:, None]
            decay, h = tl.associative_scan((tl.exp2(dt * rate[None, :]), added), 0, _after)
            h += decay * start[None, :]
            back, w = tl.associative_scan(
                (tl.exp2(dt_next * rate[None, :]), g * weight[:, None]), 0, _after, reverse=True
            )
            w += back * end[None, :]
            plain += weight[:, None] * h
            grad_v += b[:, None] * w
            # What was left of the state before, times its adjoint.
            left = (h - added) * w
            grad_dt += (rate * LN_2)[None, :] * left
            tl.store(grad_A + (place * N + n) * d + c, tl.sum(dt * left, axis=0), mask=known)
            mine = (own + n) * L + rows
            others = within & (rows < part * L)
            sum_B = tl.load(grad_B + mine, mask=others, other=0.0) + tl.sum(w * v, axis=1)
            sum_C = tl.load(grad_C + mine, mask=others, other=0.0) + tl.sum(g * h, axis=1)
            tl.store(grad_B + mine, sum_B, mask=within)
            tl.store(grad_C + mine, sum_C, mask=within)
        grad_dt += grad_v * x
        if SOFTPLUS:
            grad_dt = grad_dt * tl.sigmoid(raw)
        tl.store(grad_u + at, grad_v * dt + direct * g, mask=inside)
        tl.store(grad_delta + at, grad_dt, mask=inside)
        if GATED:
            open_ = tl.sigmoid(gate)
            slope = open_ * (1.0 + gate * (1.0 - open_))
            tl.store(grad_z + at, given * plain * slope, mask=inside)
        tl.store(grad_D + place * d + c, tl.sum(g * x, axis=0), mask=known)
        tl.store(grad_bias + place * d + c, tl.sum(tl.where(inside, grad_dt, 0.0), axis=0), mask=known)
