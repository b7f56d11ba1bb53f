"""Kernels of linear attention in Triton that serve both kinds of decays; ``triton_tiles`` has their terms.

``triton_scalar`` and ``triton_vector`` have what differs: the pairs of steps inside a chunk.
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl

from compressm.scan.ssd.triton_tiles import (
    keep_tile,
    log_decays,
    pairs_at,
    since_start,
    state_tile,
    steps_of,
    tile,
    until_end,
)


@triton.jit
def chunk_ends(
    x, y, g, ends, totals, scale, L, heads, K, V, chunks,
    STEPS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
    PER_CHANNEL: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """What leaves each chunk if nothing enters it, and the sums of its logarithms of decays.

    Forward, x are keys, y values, and what leaves are states: each step decayed by those after it. With
    ADJOINT, x are queries, y gradients of the outputs, and what leaves, towards the past, are gradients of
    states: each step decayed by those up to it, its own included.
    """
    place, origin, at, inside, followed = steps_of(L, heads, chunks, STEPS)
    c = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    e = tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V)
    if ADJOINT:
        decays = since_start(g, origin, at, inside, c, K, PER_CHANNEL)
    else:
        decays = until_end(g, origin, at + heads, followed, c, K, PER_CHANNEL)
    weighted = tile(x, origin, at, inside, c, K) * decays
    values = tile(y, origin, at, inside, e, V) * scale
    end = tl.dot(tl.trans(weighted), values, input_precision=PRECISION)
    known = (c < K)[:, None] & (e < V)[None, :]
    tl.store(ends + place * K * V + (c[:, None] * V + e[None, :]), end, mask=known)
    total = tl.sum(log_decays(g, origin, at, inside, c, K, PER_CHANNEL), axis=0)
    # Programs that share a chunk write the same numbers.
    if PER_CHANNEL:
        tl.store(totals + place * K + c, total, mask=c < K)
    else:
        tl.store(totals + place + tl.arange(0, 1), total)


@triton.jit
def carry(
    ends, totals, initial, final, K, V, chunks,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, PER_CHANNEL: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Turn what leaves each chunk from a zero start into what enters it, in place; what leaves the last."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    size = K * V
    known = i < size
    S = tl.load(initial + row * size + i, mask=known, other=0.0)
    for step in tl.range(0, chunks, num_stages=STAGES):
        place = row * chunks + (chunks - 1 - step if ADJOINT else step)
        if PER_CHANNEL:
            total = tl.load(totals + place * K + i // V, mask=known, other=0.0)
        else:
            total = tl.load(totals + place)
        end = tl.load(ends + place * size + i, mask=known, other=0.0)
        tl.store(ends + place * size + i, S, mask=known)
        S = tl.exp(total) * S + end
    tl.store(final + row * size + i, S, mask=known)


@triton.jit
def weights(
    grad_y, v, products, scale, L, heads, V, chunks,
    STEPS: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk's pairs of steps: what a later step's outputs want of an earlier one's values."""
    place, origin, at, inside, _ = steps_of(L, heads, chunks, STEPS)
    total = tl.zeros((STEPS, STEPS), dtype=tl.float32)
    for first in range(0, V, BLOCK_V):
        e = first + tl.arange(0, BLOCK_V)
        given, values = tile(grad_y, origin, at, inside, e, V), tile(v, origin, at, inside, e, V)
        total = tl.dot(given, tl.trans(values), total, input_precision=PRECISION)
    tl.store(pairs_at(products, place, STEPS), scale * total)


@triton.jit
def outputs(
    scores, x, y, g, states, result, scale, L, heads, K, V, chunks,
    STEPS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
    PER_CHANNEL: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Outputs of a chunk from its scores, queries x, values y and the state that enters it.

    With ADJOINT, gradients of the values, from the transposed scores, keys x, gradients y of the outputs and
    the gradient that enters from the future.
    """
    place, origin, at, inside, followed = steps_of(L, heads, chunks, STEPS)
    e = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    pairs = tl.load(pairs_at(scores, place, STEPS))
    if ADJOINT:
        pairs = tl.trans(pairs)
    made = tl.dot(pairs, scale * tile(y, origin, at, inside, e, V), input_precision=PRECISION)
    # The gradient from the future has its scale already.
    factor = 1.0 if ADJOINT else scale
    for start in range(0, K, BLOCK_K):
        c = start + tl.arange(0, BLOCK_K)
        if ADJOINT:
            decays = until_end(g, origin, at + heads, followed, c, K, PER_CHANNEL)
        else:
            decays = since_start(g, origin, at, inside, c, K, PER_CHANNEL)
        weighted = factor * decays * tile(x, origin, at, inside, c, K)
        S = state_tile(states, place, c, e, K, V)
        made = tl.dot(weighted, S, made, input_precision=PRECISION)
    keep_tile(result, origin, at, inside, e, V, made)
