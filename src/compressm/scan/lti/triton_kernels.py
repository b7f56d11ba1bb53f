"""Kernels of the LTI recurrence, in Triton: one program per sequence, block of states and chunk of time.

Sequences of states are real pairs, (batch, L, 2, N). Steps are counted in the order in which a kernel takes
them: step i lies at time i, or with FLIP at time ``L - 1 - i``. With ADJOINT the recurrence is that of the
backward pass, ``w_i = g_i + c_i``, ``c_{i+1} = conj(lambda) w_i``, and what enters and leaves a chunk is c;
without, it is ``x_i = lambda x_{i-1} + v_i``, and what enters and leaves is x.

Loads of coming steps do not wait for the recurrence: ``STAGES`` of them are under way at any time.
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl


@triton.jit
def _eigenvalues(lam, n, N, ADJOINT: tl.constexpr):
    re = tl.load(lam + n, mask=n < N, other=0.0)
    im = tl.load(lam + N + n, mask=n < N, other=0.0)
    if ADJOINT:
        im = -im
    return re, im


@triton.jit
def chunk_ends(
    v, lam, ends, L, N, blocks, steps,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, FLIP: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """What leaves each chunk if nothing enters it: ``ends``, (batch, chunks, 2, N)."""
    row, chunk = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    width = tl.cast(2 * N, tl.int64)
    n = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    lam_re, lam_im = _eigenvalues(lam, n, N, ADJOINT)
    x_re = tl.zeros_like(lam_re)
    x_im = tl.zeros_like(lam_im)
    first = v + row * L * width + n
    for i in tl.range(chunk * steps, tl.minimum(L, chunk * steps + steps), num_stages=STAGES):
        at = first + (L - 1 - i if FLIP else i) * width
        v_re = tl.load(at, mask=inside, other=0.0)
        v_im = tl.load(at + N, mask=inside, other=0.0)
        if ADJOINT:
            w_re, w_im = v_re + x_re, v_im + x_im
            x_re, x_im = lam_re * w_re - lam_im * w_im, lam_re * w_im + lam_im * w_re
        else:
            x_re, x_im = lam_re * x_re - lam_im * x_im + v_re, lam_re * x_im + lam_im * x_re + v_im
    to = ends + (row * tl.num_programs(1) + chunk) * width + n
    tl.store(to, x_re, mask=inside)
    tl.store(to + N, x_im, mask=inside)


@triton.jit
def carry(
    ends, lam, initial, N, blocks, chunks,
    LOG_STEPS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Turn what leaves each chunk from a zero start into what enters it, in place.

    Chunks have ``2^LOG_STEPS`` steps; the decay over one is squared up in float64, as repeated squaring
    doubles the relative error each time.
    """
    row = (tl.program_id(0) // blocks).to(tl.int64)
    width = tl.cast(2 * N, tl.int64)
    n = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    lam_re, lam_im = _eigenvalues(lam, n, N, ADJOINT)
    a_re, a_im = lam_re.to(tl.float64), lam_im.to(tl.float64)
    for _ in tl.static_range(LOG_STEPS):
        a_re, a_im = a_re * a_re - a_im * a_im, 2 * a_re * a_im
    a_re, a_im = a_re.to(lam_re.dtype), a_im.to(lam_re.dtype)
    x_re = tl.load(initial + row * width + n, mask=inside, other=0.0)
    x_im = tl.load(initial + row * width + N + n, mask=inside, other=0.0)
    for chunk in tl.range(0, chunks, num_stages=STAGES):
        at = ends + (row * chunks + chunk) * width + n
        end_re = tl.load(at, mask=inside, other=0.0)
        end_im = tl.load(at + N, mask=inside, other=0.0)
        tl.store(at, x_re, mask=inside)
        tl.store(at + N, x_im, mask=inside)
        x_re, x_im = a_re * x_re - a_im * x_im + end_re, a_re * x_im + a_im * x_re + end_im


@triton.jit
def states(
    v, lam, entering, final, L, N, blocks, steps,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, FLIP: tl.constexpr,
):  # fmt: skip
    """Turn inputs v into states x, in place; the last chunk writes the final state, (batch, 2, N)."""
    row, chunk = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    width = tl.cast(2 * N, tl.int64)
    n = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    lam_re, lam_im = _eigenvalues(lam, n, N, False)
    start = entering + (row * tl.num_programs(1) + chunk) * width + n
    x_re = tl.load(start, mask=inside, other=0.0)
    x_im = tl.load(start + N, mask=inside, other=0.0)
    first = v + row * L * width + n
    for i in tl.range(chunk * steps, tl.minimum(L, chunk * steps + steps), num_stages=STAGES):
        at = first + (L - 1 - i if FLIP else i) * width
        v_re = tl.load(at, mask=inside, other=0.0)
        v_im = tl.load(at + N, mask=inside, other=0.0)
        x_re, x_im = lam_re * x_re - lam_im * x_im + v_re, lam_re * x_im + lam_im * x_re + v_im
        tl.store(at, x_re, mask=inside)
        tl.store(at + N, x_im, mask=inside)
    if chunk == tl.num_programs(1) - 1:
        tl.store(final + row * width + n, x_re, mask=inside)
        tl.store(final + row * width + N + n, x_im, mask=inside)


@triton.jit
def adjoint(
    g, x, lam, entering, initial, leaving, slopes, L, N, blocks, steps,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, FLIP: tl.constexpr,
):  # fmt: skip
    """Turn gradients g of the states' outputs into adjoints w, in place.

    The last chunk writes ``leaving``, the gradient of the initial state. Each program adds up its share of
    the gradient of lambda, ``conj(x_{k-1}) w_k``, in float64: ``slopes``, (batch, chunks, 2, N).
    """
    row, chunk = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    width = tl.cast(2 * N, tl.int64)
    n = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    lam_re, lam_im = _eigenvalues(lam, n, N, True)
    start = entering + (row * tl.num_programs(1) + chunk) * width + n
    c_re = tl.load(start, mask=inside, other=0.0)
    c_im = tl.load(start + N, mask=inside, other=0.0)
    slope_re = tl.zeros_like(c_re).to(tl.float64)
    slope_im = tl.zeros_like(c_im).to(tl.float64)
    offset = row * L * width + n
    for i in tl.range(chunk * steps, tl.minimum(L, chunk * steps + steps), num_stages=STAGES):
        at = offset + (L - 1 - i if FLIP else i) * width
        g_re = tl.load(g + at, mask=inside, other=0.0)
        g_im = tl.load(g + at + N, mask=inside, other=0.0)
        # The state before this step: before the first, the last that is taken here, x holds none.
        before = at - width if FLIP else at + width
        known = inside & (n < (L - 1 - i) * width)
        x_re = tl.load(x + before, mask=known, other=0.0).to(tl.float64)
        x_im = tl.load(x + before + N, mask=known, other=0.0).to(tl.float64)
        g_re += c_re
        g_im += c_im
        slope_re += x_re * g_re + x_im * g_im
        slope_im += x_re * g_im - x_im * g_re
        tl.store(g + at, g_re, mask=inside)
        tl.store(g + at + N, g_im, mask=inside)
        c_re, c_im = lam_re * g_re - lam_im * g_im, lam_re * g_im + lam_im * g_re
        if i == L - 1:
            x_re = tl.load(initial + row * width + n, mask=inside, other=0.0).to(tl.float64)
            x_im = tl.load(initial + row * width + N + n, mask=inside, other=0.0).to(tl.float64)
            slope_re += x_re * g_re + x_im * g_im
            slope_im += x_re * g_im - x_im * g_re
    to = (row * tl.num_programs(1) + chunk) * width + n
    tl.store(slopes + to, slope_re, mask=inside)
    tl.store(slopes + to + N, slope_im, mask=inside)
    if chunk == tl.num_programs(1) - 1:
        tl.store(leaving + row * width + n, c_re, mask=inside)
        tl.store(leaving + row * width + N + n, c_im, mask=inside)
