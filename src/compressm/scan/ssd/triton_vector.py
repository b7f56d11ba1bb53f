"""Kernels of linear attention with a decay per key channel: pairs of steps of a chunk, and gradients.

Pairs of steps meet level by level: at each, a chunk is cut into stretches, and the later half of a stretch
reads the earlier one across the border between them. A later step decays from the border, an earlier one up
to it, so a level takes one exponential per step and channel, none of a positive number, and one product of
all steps with all, of which the pairs inside stretches count; every pair of steps meets at one level. (This
is the secondary chunking of Yang et al. 2023, section 4, at all scales.)
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

DIGITS = tl.constexpr("tf32x3")
"""Of products with masks of 0 and 1, which add up logarithms and their gradients: always float32's."""


@triton.jit
def _level(level, STEPS: tl.constexpr):
    """Which steps are in the later half of their stretch, which pairs meet, and which steps lie between.

    ``between[t, s]`` is 1 where step s lies between step t and its border: the decays that t's exponent adds.
    """
    i = tl.arange(0, STEPS)
    half = i >> level
    late = (half & 1) == 1
    meet = ((half >> 1)[:, None] == (half >> 1)[None, :]) & late[:, None] & (late[None, :] == 0)
    near = (half[:, None] == half[None, :]) & ((i[:, None] >= i[None, :]) == late[:, None])
    return late[:, None], meet, tl.where(near, 1.0, 0.0)


@triton.jit
def scores(
    q, k, g, products, L, heads, K, chunks,
    STEPS: tl.constexpr, LEVELS: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Products of queries and earlier keys of a chunk, decayed between them channel by channel."""
    place, origin, at, inside, _ = steps_of(L, heads, chunks, STEPS)
    i = tl.arange(0, STEPS)
    total = tl.zeros((STEPS, STEPS), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        c = start + tl.arange(0, BLOCK_K)
        queries, keys = tile(q, origin, at, inside, c, K), tile(k, origin, at, inside, c, K)
        decays = log_decays(g, origin, at, inside, c, K, True)
        total += tl.where(i[:, None] == i[None, :], tl.sum(queries * keys, axis=1)[:, None], 0.0)
        for level in range(LEVELS):
            late, meet, between = _level(level, STEPS)
            weighted = tl.where(late, queries, keys) * tl.exp(tl.dot(between, decays, input_precision=DIGITS))
            met = tl.dot(weighted, tl.trans(weighted), input_precision=PRECISION)
            total += tl.where(meet, met, 0.0)
    tl.store(pairs_at(products, place, STEPS), total)


@triton.jit
def gradients(
    q, k, v, g, grad_y, wanted, entering, returning, grad_q, grad_k, grad_g, scale, L, heads, K, V, chunks,
    STEPS: tl.constexpr, LEVELS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk's queries, keys and decays."""
    place, origin, at, inside, followed = steps_of(L, heads, chunks, STEPS)
    c = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    i = tl.arange(0, STEPS)
    from_past = tl.zeros((STEPS, BLOCK_K), dtype=tl.float32)
    from_future = tl.zeros((STEPS, BLOCK_K), dtype=tl.float32)
    passed = tl.zeros((BLOCK_K,), dtype=tl.float32)
    for first in range(0, V, BLOCK_V):
        e = first + tl.arange(0, BLOCK_V)
        S, R = state_tile(entering, place, c, e, K, V), state_tile(returning, place, c, e, K, V)
        passed += tl.sum(S * R, axis=1)
        given = scale * tile(grad_y, origin, at, inside, e, V)
        from_past = tl.dot(given, tl.trans(S), from_past, input_precision=PRECISION)
        values = tile(v, origin, at, inside, e, V)
        from_future = tl.dot(values, tl.trans(R), from_future, input_precision=PRECISION)
    from_past *= since_start(g, origin, at, inside, c, K, True)
    from_future *= until_end(g, origin, at + heads, followed, c, K, True)
    queries, keys = tile(q, origin, at, inside, c, K), tile(k, origin, at, inside, c, K)
    decays = log_decays(g, origin, at, inside, c, K, True)
    # A decay acts on what enters for this and later steps, on what earlier ones leave, on what passes.
    slope = tl.cumsum(queries * from_past, axis=0, reverse=True)
    slope += (tl.exp(tl.sum(decays, axis=0)) * passed)[None, :]
    past = tl.where(i[:, None] > i[None, :], 1.0, 0.0)
    slope = tl.dot(past, keys * from_future, slope, input_precision=DIGITS)
    pairs = tl.load(pairs_at(wanted, place, STEPS))
    own = tl.sum(tl.where(i[:, None] == i[None, :], pairs, 0.0), axis=1)[:, None]
    from_past += own * keys
    from_future += own * queries
    # A pair's weight in the row of its later step, and in that of its earlier one as well.
    pairs = tl.where(i[:, None] > i[None, :], pairs, tl.trans(pairs))
    for level in range(LEVELS):
        late, meet, between = _level(level, STEPS)
        decayed = tl.exp(tl.dot(between, decays, input_precision=DIGITS))
        weighted = tl.where(late, queries, keys) * decayed
        met = tl.where(meet | tl.trans(meet), pairs, 0.0)
        back = tl.dot(met, weighted, input_precision=PRECISION)
        slope = tl.dot(tl.trans(between), weighted * back, slope, input_precision=DIGITS)
        back *= decayed
        from_past += tl.where(late, back, 0.0)
        from_future += tl.where(late, 0.0, back)
    keep_tile(grad_q, origin, at, inside, c, K, from_past)
    keep_tile(grad_k, origin, at, inside, c, K, from_future)
    keep_tile(grad_g, origin, at, inside, c, K, slope)
