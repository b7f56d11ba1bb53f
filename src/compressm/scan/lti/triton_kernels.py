"""Kernels of the LTI recurrence, in Triton: one warp per sequence, 32 states and chunk of time.

Sequences of states are real pairs, (batch, L, 2, N), in the operands' type or in bfloat16; the recurrence
itself is computed in the type of ``lam``, in which what passes from chunk to chunk is kept. Steps are counted
in the order in which a kernel takes them: step i lies at time i, or with FLIP at time ``L - 1 - i``. With
ADJOINT the recurrence is that of the backward pass, ``w_i = g_i + c_i``, ``c_{i+1} = conj(lambda) w_i``, and
what enters and leaves a chunk is c; without, it is ``x_i = lambda x_{i-1} + v_i``, and what enters and leaves
is x.

Steps are taken in tiles whose columns are threads (``scan/runtime/columns.py``). While one is worked on, the
next is under way.
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl

from compressm.scan.runtime.columns import inside_of, row

UNALIGNED = ["v", "g", "x", "lam", "ends", "initial", "entering", "final", "leaving", "slopes"]


@triton.jit
def _eigenvalues(lam, n, N, ADJOINT: tl.constexpr):
    re = tl.load(lam + n, mask=n < N, other=0.0)
    im = tl.load(lam + N + n, mask=n < N, other=0.0)
    if ADJOINT:
        im = -im
    return re, im


@triton.jit
def _places(i, L, N, n, STEPS: tl.constexpr, FLIP: tl.constexpr):
    """Where a tile's real parts are in a sequence, from its step i on."""
    steps = tl.arange(0, STEPS)[:, None]
    width = tl.cast(2 * N, tl.int64)
    if FLIP:
        return (L - 1 - i) * width + n[None, :] - steps * (2 * N)
    return i * width + n[None, :] + steps * (2 * N)


@triton.jit
def _pair(x, at, N, inside, like):
    """Real and imaginary parts of a tile in the type of ``like``; 0 outside."""
    re = tl.load(x + at, mask=inside, other=0.0).to(like.dtype)
    return re, tl.load(x + at + N, mask=inside, other=0.0).to(like.dtype)


@triton.jit
def _advance(re, im, lam_re, lam_im, x_re, x_im, left, EVEN: tl.constexpr):
    """States of a tile from its inputs, and the last of them."""
    steps = tl.arange(0, re.shape[0])[:, None]
    for t in tl.static_range(re.shape[0]):
        after_re = lam_re * x_re - lam_im * x_im + row(re, t)
        after_im = lam_re * x_im + lam_im * x_re + row(im, t)
        re = tl.where(steps == t, after_re[None, :], re)
        im = tl.where(steps == t, after_im[None, :], im)
        if EVEN:
            x_re, x_im = after_re, after_im
        else:
            x_re, x_im = tl.where(t < left, after_re, x_re), tl.where(t < left, after_im, x_im)
    return re, im, x_re, x_im


@triton.jit
def _return(re, im, lam_re, lam_im, c_re, c_im, left, EVEN: tl.constexpr):
    """Adjoints of a tile from gradients of its outputs, the last, and what leaves; lambda is conjugated."""
    steps = tl.arange(0, re.shape[0])[:, None]
    last_re, last_im = c_re, c_im
    for t in tl.static_range(re.shape[0]):
        w_re, w_im = c_re + row(re, t), c_im + row(im, t)
        re = tl.where(steps == t, w_re[None, :], re)
        im = tl.where(steps == t, w_im[None, :], im)
        after_re = lam_re * w_re - lam_im * w_im
        after_im = lam_re * w_im + lam_im * w_re
        if EVEN:
            c_re, c_im, last_re, last_im = after_re, after_im, w_re, w_im
        else:
            c_re, c_im = tl.where(t < left, after_re, c_re), tl.where(t < left, after_im, c_im)
            last_re, last_im = tl.where(t < left, w_re, last_re), tl.where(t < left, w_im, last_im)
    return re, im, last_re, last_im, c_re, c_im


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def chunk_ends(
    v, lam, ends, L, N, blocks, length,
    BLOCK: tl.constexpr, STEPS: tl.constexpr, FLIP: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """What leaves each chunk but the last if nothing enters it: ``ends``, (batch, chunks, 2, N).

    A chunk that another follows is full: all its tiles are.
    """
    sequence, chunk = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    n = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    known = n < N
    inside = inside_of(0, known, STEPS, True)
    lam_re, lam_im = _eigenvalues(lam, n, N, ADJOINT)
    x_re, x_im = tl.zeros_like(lam_re), tl.zeros_like(lam_re)
    v += sequence * L * (2 * N)
    begin = chunk * length
    next_re, next_im = _pair(v, _places(begin, L, N, n, STEPS, FLIP), N, inside, lam_re)
    for i in tl.range(begin, begin + length, STEPS, num_stages=1):
        re, im = next_re, next_im
        # Behind the last tile, one that is there and is not used.
        later = tl.minimum(i + STEPS, begin + length - STEPS)
        next_re, next_im = _pair(v, _places(later, L, N, n, STEPS, FLIP), N, inside, lam_re)
        if ADJOINT:
            _, _, _, _, x_re, x_im = _return(re, im, lam_re, lam_im, x_re, x_im, STEPS, True)
        else:
            _, _, x_re, x_im = _advance(re, im, lam_re, lam_im, x_re, x_im, STEPS, True)
    to = ends + (sequence * (tl.num_programs(1) + 1) + chunk) * (2 * N) + n
    tl.store(to, x_re, mask=known)
    tl.store(to + N, x_im, mask=known)


@triton.jit
def carry(
    ends, lam, initial, N, blocks, chunks,
    LOG_LENGTH: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Turn what leaves each chunk from a zero start into what enters it, in place.

    Chunks have ``2^LOG_LENGTH`` steps; the decay over one is squared up in float64, as repeated squaring
    doubles the relative error each time.
    """
    sequence = (tl.program_id(0) // blocks).to(tl.int64)
    width = tl.cast(2 * N, tl.int64)
    n = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    lam_re, lam_im = _eigenvalues(lam, n, N, ADJOINT)
    a_re, a_im = lam_re.to(tl.float64), lam_im.to(tl.float64)
    for _ in tl.static_range(LOG_LENGTH):
        a_re, a_im = a_re * a_re - a_im * a_im, 2 * a_re * a_im
    a_re, a_im = a_re.to(lam_re.dtype), a_im.to(lam_re.dtype)
    x_re = tl.load(initial + sequence * width + n, mask=inside, other=0.0)
    x_im = tl.load(initial + sequence * width + N + n, mask=inside, other=0.0)
    for chunk in tl.range(0, chunks, num_stages=STAGES):
        at = ends + (sequence * chunks + chunk) * width + n
        # Nobody looks at what leaves the last, and nothing was made of it.
        more = n < tl.where(chunk < chunks - 1, N, 0)
        end_re = tl.load(at, mask=more, other=0.0)
        end_im = tl.load(at + N, mask=more, other=0.0)
        tl.store(at, x_re, mask=inside)
        tl.store(at + N, x_im, mask=inside)
        x_re, x_im = a_re * x_re - a_im * x_im + end_re, a_re * x_im + a_im * x_re + end_im


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def states(
    v, lam, entering, final, L, N, blocks, length,
    BLOCK: tl.constexpr, STEPS: tl.constexpr, FLIP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Turn inputs v into states x, in place; the last chunk writes the final state, (batch, 2, N)."""
    sequence, chunk = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    n = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    known = n < N
    lam_re, lam_im = _eigenvalues(lam, n, N, False)
    start = entering + (sequence * tl.num_programs(1) + chunk) * (2 * N) + n
    x_re = tl.load(start, mask=known, other=0.0)
    x_im = tl.load(start + N, mask=known, other=0.0)
    v += sequence * L * (2 * N)
    begin, end = chunk * length, tl.minimum(L, chunk * length + length)
    next_at = _places(begin, L, N, n, STEPS, FLIP)
    next_re, next_im = _pair(v, next_at, N, inside_of(L - begin, known, STEPS, EVEN), lam_re)
    for i in tl.range(begin, end, STEPS, num_stages=1):
        re, im, at = next_re, next_im, next_at
        # Behind the last tile, one that is there and is not used.
        later = tl.where(i + STEPS < end, i + STEPS, i)
        next_at = _places(later, L, N, n, STEPS, FLIP)
        next_re, next_im = _pair(v, next_at, N, inside_of(L - later, known, STEPS, EVEN), lam_re)
        re, im, x_re, x_im = _advance(re, im, lam_re, lam_im, x_re, x_im, L - i, EVEN)
        inside = inside_of(L - i, known, STEPS, EVEN)
        tl.store(v + at, re, mask=inside)
        tl.store(v + at + N, im, mask=inside)
    if chunk == tl.num_programs(1) - 1:
        tl.store(final + sequence * (2 * N) + n, x_re, mask=known)
        tl.store(final + sequence * (2 * N) + N + n, x_im, mask=known)


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def adjoint(
    g, x, lam, entering, initial, leaving, slopes, L, N, blocks, length,
    BLOCK: tl.constexpr, STEPS: tl.constexpr, FLIP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Turn gradients g of the states' outputs into adjoints w, in place.

    The last chunk writes ``leaving``, the gradient of the initial state. Each program adds up its share of
    the gradient of lambda, ``conj(x_{k-1}) w_k``, over tiles in float64: ``slopes``, (batch, chunks, 2, N).
    """
    sequence, chunk = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    n = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    known = n < N
    lam_re, lam_im = _eigenvalues(lam, n, N, True)
    place = (sequence * tl.num_programs(1) + chunk) * (2 * N) + n
    c_re = tl.load(entering + place, mask=known, other=0.0)
    c_im = tl.load(entering + place + N, mask=known, other=0.0)
    w_re, w_im = c_re, c_im
    slope_re, slope_im = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    g += sequence * L * (2 * N)
    x += sequence * L * (2 * N)
    begin, end = chunk * length, tl.minimum(L, chunk * length + length)
    next_at = _places(begin, L, N, n, STEPS, FLIP)
    next_re, next_im = _pair(g, next_at, N, inside_of(L - begin, known, STEPS, EVEN), lam_re)
    for i in tl.range(begin, end, STEPS, num_stages=1):
        re, im, at = next_re, next_im, next_at
        # The state before a step is what the kernel meets one step later. Before the first, the last that is
        # taken here, x holds none.
        before = inside_of(L - 1 - i, known, STEPS, False)
        x_re, x_im = _pair(x, _places(i + 1, L, N, n, STEPS, FLIP), N, before, lam_re)
        # Behind the last tile, one that is there and is not used.
        later = tl.where(i + STEPS < end, i + STEPS, i)
        next_at = _places(later, L, N, n, STEPS, FLIP)
        next_re, next_im = _pair(g, next_at, N, inside_of(L - later, known, STEPS, EVEN), lam_re)
        re, im, w_re, w_im, c_re, c_im = _return(re, im, lam_re, lam_im, c_re, c_im, L - i, EVEN)
        inside = inside_of(L - i, known, STEPS, EVEN)
        tl.store(g + at, re, mask=inside)
        tl.store(g + at + N, im, mask=inside)
        slope_re += tl.sum(x_re * re + x_im * im, axis=0)
        slope_im += tl.sum(x_re * im - x_im * re, axis=0)
    if chunk == tl.num_programs(1) - 1:
        tl.store(leaving + sequence * (2 * N) + n, c_re, mask=known)
        tl.store(leaving + sequence * (2 * N) + N + n, c_im, mask=known)
        x_re = tl.load(initial + sequence * (2 * N) + n, mask=known, other=0.0)
        x_im = tl.load(initial + sequence * (2 * N) + N + n, mask=known, other=0.0)
        slope_re += x_re * w_re + x_im * w_im
        slope_im += x_re * w_im - x_im * w_re
    tl.store(slopes + place, slope_re, mask=known)
    tl.store(slopes + place + N, slope_im, mask=known)
