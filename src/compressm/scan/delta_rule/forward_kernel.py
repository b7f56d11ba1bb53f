"""The delta rule with decay, step after step: Numba kernels for float32.

A vector holds one row of a state: one key channel, ``width`` value channels side by side. What is written at
a step depends on what all rows know, so that the loop over time is outside. One pass over a block of a state,
which stays in the first-level cache, decays it, writes to it, reads it with the query, and already asks for
what it knows of the next key. Value channels do not see each other, so blocks of them are work of their own.

Layout: q, k (batch, L, heads, K) at any strides whose last is 1; logarithms of decays and strengths (batch,
L, heads); v, y, residuals (batch, L, heads, blocks width); states (batch, heads, blocks, K, width); states
before chunks (batch, heads, chunks, blocks, K, width).
"""

from typing import Any

from numba import carray

from compressm.scan.delta_rule.lengths import scale_to_unit
from compressm.scan.runtime.arrays import array, copy_row, scratch
from compressm.scan.runtime.pointers import compiled, float32_pointer, worker
from compressm.scan.runtime.vectors import (
    load,
    load_double,
    load_part,
    spread_item,
    spread_item_double,
    spread_item_part,
    store,
)
from compressm.scan.runtime.widths import DOUBLE, HALF, LANES
from compressm.scan.ssd.recurrent_layout import STEPS
from compressm.scan.ssd.row_access import GAP, flush_tiny, reach, read_decays, read_rows


@compiled
def _recall(S: Any, k: Any, K: Any, nothing: Any, width: Any, load_row: Any, spread_one: Any) -> Any:
    """``S^T k``: what a block of a state knows of the first key."""
    known = spread_one(nothing, 0)
    for n in range(K):
        known = known + spread_one(k, n) * load_row(S, n * width)
    return known


@compiled
def _advance(
    q: Any, k: Any, decay: Any, beta: Any, spacing: Any, S: Any, K: Any, steps: Any, v: Any, out: Any,
    residual: Any, nothing: Any, width: Any, load_row: Any, spread_one: Any,
) -> None:  # fmt: skip
    """Carry a block of a state, K rows, over a chunk; ``out`` is ``S^T q``, ``residual`` what was not known.

    Sums over rows run in two chains, for even and odd rows, so that one need not wait for the other.
    """
    known = _recall(S, k, K, nothing, width, load_row, spread_one)
    for t in range(steps):
        at, ahead = t * spacing, min(t + 1, steps - 1) * spacing
        a = spread_one(decay, t)
        missing = load_row(v, t * width) - a * known
        store(residual, t * width, missing)
        u = spread_one(beta, t) * missing
        y, y_odd = spread_one(nothing, 0), spread_one(nothing, 0)
        known, known_odd = spread_one(nothing, 0), spread_one(nothing, 0)
        for n in range(0, K - 1, 2):
            h = a * load_row(S, n * width) + spread_one(k, at + n) * u
            h_odd = a * load_row(S, (n + 1) * width) + spread_one(k, at + n + 1) * u
            store(S, n * width, h)
            store(S, (n + 1) * width, h_odd)
            y = y + spread_one(q, at + n) * h
            y_odd = y_odd + spread_one(q, at + n + 1) * h_odd
            known = known + spread_one(k, ahead + n) * h
            known_odd = known_odd + spread_one(k, ahead + n + 1) * h_odd
        if K % 2 == 1:
            n = K - 1
            h = a * load_row(S, n * width) + spread_one(k, at + n) * u
            store(S, n * width, h)
            y = y + spread_one(q, at + n) * h
            known = known + spread_one(k, ahead + n) * h
        store(out, t * width, y + y_odd)
        known = known + known_odd


@compiled
def _forward(arguments: Any, width: Any, load_row: Any, spread_one: Any) -> None:
    """Kernel of rows that are ``width`` long.

    Words: worker, workers, batch, L, heads, K, blocks, groups, unit, keep; strides of q and of k from
    sequence to sequence, step to step, head to head; scale (an array of one); q, k, decays, strengths, v, y,
    residuals, states (before, then after), states before chunks.
    """
    words = carray(arguments, (26,))
    batch, L, heads, K = words[2], words[3], words[4], words[5]
    blocks, groups, unit, keep = words[6], words[7], words[8], words[9]
    size, chunks, wide = K * width, (L + STEPS - 1) // STEPS, heads * blocks * width
    spacing = (K + LANES - 1) // LANES * LANES + GAP
    scale = carray(float32_pointer(words[16]), (1,))[0]
    q = array(words[17], reach(words[10], words[11], words[12], batch, L, heads, K))
    k = array(words[18], reach(words[13], words[14], words[15], batch, L, heads, K))
    decays, strengths = array(words[19], batch * L * heads), array(words[20], batch * L * heads)
    v, y = array(words[21], batch * L * wide), array(words[22], batch * L * wide)
    residuals = array(words[23], keep * batch * L * wide)
    state = array(words[24], batch * heads * blocks * size)
    before = array(words[25], keep * batch * heads * chunks * blocks * size)
    here_q, here_k, decay = scratch(STEPS * spacing), scratch(STEPS * spacing), scratch(STEPS)
    values, out, residual = scratch(STEPS * width), scratch(STEPS * width), scratch(STEPS * width)
    parts, inverse, beta, nothing = scratch(STEPS * HALF), scratch(STEPS), scratch(STEPS), scratch(HALF)
    number, workers = worker(words)
    for item in range(number, batch * heads * groups, workers):
        place, group = item // groups, item % groups
        b, head = place // heads, place % heads
        for chunk in range(chunks):
            first = chunk * STEPS
            steps = min(STEPS, L - first)
            at = (b * L + first) * heads + head
            read_rows(q[b * words[10] + first * words[11] + head * words[12] :], words[11], steps, K,
                      here_q, spacing)  # fmt: skip
            read_rows(k[b * words[13] + first * words[14] + head * words[15] :], words[14], steps, K,
                      here_k, spacing)  # fmt: skip
            if unit:
                scale_to_unit(here_q, spacing, steps, K, parts, inverse)
                scale_to_unit(here_k, spacing, steps, K, parts, inverse)
            read_decays(decays[at:], heads, steps, 1, 1, decay, 1)
            for t in range(steps):
                beta[t] = strengths[at + t * heads]
            for block in range(group * blocks // groups, (group + 1) * blocks // groups):
                column, strip = at * blocks * width + block * width, place * blocks + block
                S = state[strip * size : (strip + 1) * size]
                flush_tiny(S, 0, size)
                if keep:
                    copy_row(S, 0, size, before, ((place * chunks + chunk) * blocks + block) * size)
                read_rows(v[column:], wide, steps, width, values, width)
                _advance(
                    here_q, here_k, decay, beta, spacing, S, K, steps, values, out, residual, nothing,
                    width, load_row, spread_one,
                )  # fmt: skip
                for t in range(steps):
                    for j in range(width):
                        y[column + t * wide + j] = scale * out[t * width + j]
                if keep:
                    for t in range(steps):
                        copy_row(residual, t * width, width, residuals, column + t * wide)


def forward_doubles(arguments: Any) -> None:
    """Kernel of rows of DOUBLE; words of :func:`_forward`."""
    _forward(arguments, DOUBLE, load_double, spread_item_double)


def forward_vectors(arguments: Any) -> None:
    """Kernel of rows of LANES; words of :func:`_forward`."""
    _forward(arguments, LANES, load, spread_item)


def forward_parts(arguments: Any) -> None:
    """Kernel of rows of HALF; words of :func:`_forward`."""
    _forward(arguments, HALF, load_part, spread_item_part)
