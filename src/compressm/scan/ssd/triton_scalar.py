"""Kernels of linear attention with one decay per head and step: pairs of steps of a chunk, and gradients.

All pairs meet in one matrix of STEPS by STEPS: later steps down, earlier ones across.
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
def _between(decays, STEPS: tl.constexpr):
    """Decays between two steps: of all steps after the earlier one up to the later one, and with it."""
    i = tl.arange(0, STEPS)
    later, earlier = i[:, None], i[None, :]
    between = tl.cumsum(tl.where(later > earlier, decays, 0.0), axis=0)
    return tl.where(later >= earlier, tl.exp(between), 0.0)


@triton.jit
def scores(
    q, k, g, products, L, heads, K, chunks,
    STEPS: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Products of queries and earlier keys of a chunk, decayed between them."""
    place, origin, at, inside, _ = steps_of(L, heads, chunks, STEPS)
    total = tl.zeros((STEPS, STEPS), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        c = start + tl.arange(0, BLOCK_K)
        queries, keys = tile(q, origin, at, inside, c, K), tile(k, origin, at, inside, c, K)
        total = tl.dot(queries, tl.trans(keys), total, input_precision=PRECISION)
    decays = _between(log_decays(g, origin, at, inside, 0, K, False), STEPS)
    tl.store(pairs_at(products, place, STEPS), total * decays)


@triton.jit
def gradients(
    q, k, v, g, grad_y, products, wanted, entering, returning, grad_q, grad_k, grad_g,
    scale, L, heads, K, V, chunks,
    STEPS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk's queries, keys and decays; of decays a share, (blocks of K, batch, L, heads)."""
    place, origin, at, inside, followed = steps_of(L, heads, chunks, STEPS)
    c = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    i = tl.arange(0, STEPS)
    later, earlier = i[:, None], i[None, :]
    decays = log_decays(g, origin, at, inside, 0, K, False)
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
    from_past *= since_start(g, origin, at, inside, 0, K, False)
    from_future *= until_end(g, origin, at + heads, followed, 0, K, False)
    queries, keys = tile(q, origin, at, inside, c, K), tile(k, origin, at, inside, c, K)
    # A decay acts on what enters for this and later steps, on what earlier ones leave, on what passes.
    used, left = tl.sum(queries * from_past, axis=1), tl.sum(keys * from_future, axis=1)
    slope = tl.sum(tl.where(later >= earlier, used[:, None], 0.0), axis=0)
    slope += tl.sum(tl.where(later < earlier, left[:, None], 0.0), axis=0)
    slope += tl.exp(tl.sum(decays)) * tl.sum(passed)
    pairs = tl.load(pairs_at(wanted, place, STEPS))
    # It is also in every pair whose later step is this or a later one, and whose earlier one is before.
    if tl.program_id(1) == 0:
        spanning = tl.cumsum(pairs * tl.load(pairs_at(products, place, STEPS)), axis=0, reverse=True)
        slope += tl.sum(tl.where(later > earlier, spanning, 0.0), axis=1)
    share = grad_g + tl.program_id(1) * (tl.num_programs(0) // chunks // heads).to(tl.int64) * L * heads
    tl.store(share + origin + at, slope, mask=inside)
    pairs *= _between(decays, STEPS)
    from_past = tl.dot(pairs, keys, from_past, input_precision=PRECISION)
    keep_tile(grad_q, origin, at, inside, c, K, from_past)
    from_future = tl.dot(tl.trans(pairs), queries, from_future, input_precision=PRECISION)
    keep_tile(grad_k, origin, at, inside, c, K, from_future)
