"""The adjoint of the delta rule: Numba kernels.

Layout as in the forward kernel. Time runs against the forward pass, chunk by chunk. A first pass over a block
of the state's gradient, of the forward pass's kind, finds what each step's correction is worth. With
corrections and their gradients known, rows are by themselves, and a second pass treats them as linear
attention does: the chunk's rows are computed anew from the one before it, and the gradient of the state runs
back over them.
"""

from typing import Any

from numba import carray

from compressm.scan.delta_rule.lengths import scale_to_unit, write_unit_gradients
from compressm.scan.runtime.arrays import ZERO, array, copy_row, rows, scratch
from compressm.scan.runtime.pointers import compiled, float32_pointer, worker
from compressm.scan.runtime.vectors import (
    fold,
    load,
    load_double,
    load_part,
    spread_item,
    spread_item_double,
    spread_item_part,
    store,
    sum_lanes,
)
from compressm.scan.runtime.widths import DOUBLE, HALF, LANES
from compressm.scan.ssd.recurrent_layout import STEPS
from compressm.scan.ssd.row_access import GAP, flush_tiny, reach, read_decays, read_rows, write_gradients


@compiled
def _pull_corrections(
    q: Any, k: Any, decay: Any, beta: Any, spacing: Any, G: Any, K: Any, steps: Any, residual: Any, dy: Any,
    dv: Any, parts: Any, nothing: Any, width: Any, load_row: Any, spread_one: Any,
) -> None:  # fmt: skip
    """Gradients ``dv`` of a chunk's values, from the last on; ``parts`` grow by those of strengths.

    ``G``, K rows, is the gradient of the state that comes from after the chunk; it is overwritten.
    """
    last = steps - 1
    at = last * spacing
    error = load_row(dy, last * width)
    worth = spread_one(nothing, 0)
    for n in range(K):
        g = load_row(G, n * width) + spread_one(q, at + n) * error
        store(G, n * width, g)
        worth = worth + spread_one(k, at + n) * g
    for i in range(steps):
        t = last - i
        at, behind = t * spacing, max(t - 1, 0) * spacing
        part = load_part(parts, t * HALF) + fold(worth * load_row(residual, t * width))
        store(parts, t * HALF, part)
        e = spread_one(beta, t) * worth
        store(dv, t * width, e)
        a, error = spread_one(decay, t), load_row(dy, max(t - 1, 0) * width)
        worth, worth_odd = spread_one(nothing, 0), spread_one(nothing, 0)
        for n in range(0, K - 1, 2):
            w = a * (load_row(G, n * width) - spread_one(k, at + n) * e)
            w_odd = a * (load_row(G, (n + 1) * width) - spread_one(k, at + n + 1) * e)
            g = w + spread_one(q, behind + n) * error
            g_odd = w_odd + spread_one(q, behind + n + 1) * error
            store(G, n * width, g)
            store(G, (n + 1) * width, g_odd)
            worth = worth + spread_one(k, behind + n) * g
            worth_odd = worth_odd + spread_one(k, behind + n + 1) * g_odd
        if K % 2 == 1:
            n = K - 1
            w = a * (load_row(G, n * width) - spread_one(k, at + n) * e)
            g = w + spread_one(q, behind + n) * error
            store(G, n * width, g)
            worth = worth + spread_one(k, behind + n) * g
        worth = worth + worth_odd


@compiled
def _pull_rows(
    q: Any, k: Any, decay: Any, beta: Any, spacing: Any, before: Any, carry: Any, K: Any, steps: Any,
    residual: Any, dy: Any, dv: Any, fading: Any, grad_q: Any, grad_k: Any, states: Any, products: Any,
    width: Any, load_row: Any, spread_one: Any,
) -> None:  # fmt: skip
    """Carry the gradient of a block of a state over a chunk, and add up those of queries, keys and decays.

    ``carry`` becomes the gradient of the state before the chunk. ``grad_q`` and ``grad_k`` are (K, STEPS);
    the last STEPS parts of ``products`` grow by the gradient of decays, where they are ``fading``.
    """
    for n in range(K):
        h = load_row(before, n * width)
        store(states, 0, h)
        for t in range(steps):
            at = t * spacing
            u = spread_one(beta, t) * load_row(residual, t * width)
            h = spread_one(decay, t) * h + spread_one(k, at + n) * u
            store(states, (t + 1) * width, h)
        w = load_row(carry, n * width)
        for i in range(steps):
            t = steps - 1 - i
            at, row = t * spacing, t * width
            error, e, a = load_row(dy, row), load_row(dv, row), spread_one(decay, t)
            u = spread_one(beta, t) * load_row(residual, row)
            g = w + spread_one(q, at + n) * error
            w = a * (g - spread_one(k, at + n) * e)
            past = load_row(states, row)
            store(products, t * HALF, fold(error * load_row(states, row + width)))
            store(products, (STEPS + t) * HALF, fold(g * u - a * past * e))
            if fading:
                slope = load_part(products, (2 * STEPS + t) * HALF) + fold(w * past)
                store(products, (2 * STEPS + t) * HALF, slope)
        store(carry, n * width, w)
        for t in range(0, steps, HALF):
            at = n * STEPS + t
            store(grad_q, at, load_part(grad_q, at) + sum_lanes(products, t * HALF))
            store(grad_k, at, load_part(grad_k, at) + sum_lanes(products, (STEPS + t) * HALF))


@compiled
def _write_sums(parts: Any, steps: Any, memory: Any, out: Any, stride: Any) -> None:
    """Sums over the lanes of each step's part, ``stride`` apart."""
    for t in range(0, steps, HALF):
        store(memory, t, sum_lanes(parts, t * HALF))
    for t in range(steps):
        out[t * stride] = memory[t]


@compiled
def _backward(arguments: Any, width: Any, load_row: Any, spread_one: Any) -> None:
    """Kernel of rows that are ``width`` long.

    Words as of the forward kernel to strengths, but ``fading`` (whether decays have gradients) instead of
    keep; residuals, states before chunks, gradient of y; gradients of q, k (groups, batch, L, heads, K), of
    decays' logarithms, if wanted, and of strengths (groups, batch, L, heads), of v (batch, L, heads, blocks
    width); carry (gradient of the final, then of the initial state).
    """
    words = carray(arguments, (30,))
    batch, L, heads, K = words[2], words[3], words[4], words[5]
    blocks, groups, unit, fading = words[6], words[7], words[8], words[9]
    size, chunks, wide = K * width, (L + STEPS - 1) // STEPS, heads * blocks * width
    spacing = (K + LANES - 1) // LANES * LANES + GAP
    scale = carray(float32_pointer(words[16]), (1,))[0]
    q = array(words[17], reach(words[10], words[11], words[12], batch, L, heads, K))
    k = array(words[18], reach(words[13], words[14], words[15], batch, L, heads, K))
    decays, strengths = array(words[19], batch * L * heads), array(words[20], batch * L * heads)
    residuals = array(words[21], batch * L * wide)
    before = array(words[22], batch * heads * chunks * blocks * size)
    grad_y, grad_v = array(words[23], batch * L * wide), array(words[28], batch * L * wide)
    grad_q = rows(words[24], groups, batch * L * heads * K)
    grad_k = rows(words[25], groups, batch * L * heads * K)
    grad_decays = rows(words[26], fading * groups, batch * L * heads)
    grad_strengths = rows(words[27], groups, batch * L * heads)
    carry = array(words[29], batch * heads * blocks * size)
    here_q, here_k, decay = scratch(STEPS * spacing), scratch(STEPS * spacing), scratch(STEPS)
    spare = scratch(STEPS * spacing + STEPS)
    sums = scratch(2 * K * STEPS)
    sum_q, sum_k = sums, sums[K * STEPS :]
    states, products, G = scratch((STEPS + 1) * width), scratch(4 * STEPS * HALF), scratch(size)
    residual, dy, dv = scratch(STEPS * width), scratch(STEPS * width), scratch(STEPS * width)
    inverse_q, inverse_k, beta, nothing = scratch(STEPS), scratch(STEPS), scratch(STEPS), scratch(HALF)
    line = scratch(STEPS)
    number, workers = worker(words)
    for item in range(number, batch * heads * groups, workers):
        place, group = item // groups, item % groups
        b, head = place // heads, place % heads
        for chunk in range(chunks - 1, -1, -1):
            first = chunk * STEPS
            steps = min(STEPS, L - first)
            at = (b * L + first) * heads + head
            read_rows(q[b * words[10] + first * words[11] + head * words[12] :], words[11], steps, K,
                      here_q, spacing)  # fmt: skip
            read_rows(k[b * words[13] + first * words[14] + head * words[15] :], words[14], steps, K,
                      here_k, spacing)  # fmt: skip
            if unit:
                scale_to_unit(here_q, spacing, steps, K, products, inverse_q)
                scale_to_unit(here_k, spacing, steps, K, products, inverse_k)
            read_decays(decays[at:], heads, steps, 1, 1, decay, 1)
            for t in range(steps):
                beta[t] = strengths[at + t * heads]
            sums[:] = ZERO
            products[:] = ZERO  # a chunk may be short: its rest adds nothing
            for block in range(group * blocks // groups, (group + 1) * blocks // groups):
                column, strip = at * blocks * width + block * width, place * blocks + block
                end = carry[strip * size : (strip + 1) * size]
                flush_tiny(end, 0, size)
                copy_row(end, 0, size, G, 0)
                read_rows(residuals[column:], wide, steps, width, residual, width)
                for t in range(steps):
                    for j in range(width):
                        dy[t * width + j] = scale * grad_y[column + t * wide + j]
                _pull_corrections(
                    here_q, here_k, decay, beta, spacing, G, K, steps, residual, dy, dv,
                    products[3 * STEPS * HALF :], nothing, width, load_row, spread_one,
                )  # fmt: skip
                _pull_rows(
                    here_q, here_k, decay, beta, spacing,
                    before[((place * chunks + chunk) * blocks + block) * size :], end, K, steps, residual,
                    dy, dv, fading, sum_q, sum_k, states, products, width, load_row, spread_one,
                )  # fmt: skip
                for t in range(steps):
                    copy_row(dv, t * width, width, grad_v, column + t * wide)
            if fading:
                _write_sums(products[2 * STEPS * HALF :], steps, line, grad_decays[group, at:], heads)
            _write_sums(products[3 * STEPS * HALF :], steps, line, grad_strengths[group, at:], heads)
            out_q, out_k = grad_q[group, at * K :], grad_k[group, at * K :]
            if unit:
                write_unit_gradients(
                    sum_q, here_q, spacing, steps, K, products, inverse_q, spare, out_q, heads * K
                )
                write_unit_gradients(
                    sum_k, here_k, spacing, steps, K, products, inverse_k, spare, out_k, heads * K
                )
            else:
                write_gradients(sum_q, steps, K, out_q, heads * K)
                write_gradients(sum_k, steps, K, out_k, heads * K)


def backward_doubles(arguments: Any) -> None:
    """Kernel of rows of DOUBLE; words of :func:`_backward`."""
    _backward(arguments, DOUBLE, load_double, spread_item_double)


def backward_vectors(arguments: Any) -> None:
    """Kernel of rows of LANES; words of :func:`_backward`."""
    _backward(arguments, LANES, load, spread_item)


def backward_parts(arguments: Any) -> None:
    """Kernel of rows of HALF; words of :func:`_backward`."""
    _backward(arguments, HALF, load_part, spread_item_part)
