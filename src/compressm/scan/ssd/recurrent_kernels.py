"""Linear attention with decay, step after step, and its adjoint: Numba kernels for float32.

A vector holds one row of a state: one key channel, ``width`` value channels side by side. Rows decay and grow
each by themselves, so any number of key channels costs its share, and time is cut into chunks whose inputs
and outputs stay in the first-level cache: within a chunk the loop over rows is outside and the loop over time
inside, and the running row never leaves its registers. Backward the chunk's rows are computed anew from the
one before it, and then the gradient of the state runs back over them.

Layout: q, k (batch, L, heads, K) at any strides whose last is 1; logarithms of decays (batch, L, heads,
rates) with one rate or K; v, y (batch, L, heads, blocks width); states (batch, heads, blocks, K, width);
states before chunks (batch, heads, chunks, blocks, K, width).
"""

from typing import Any

from numba import carray

from compressm.scan.runtime.arrays import ZERO, array, rows, scratch
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
def _advance(
    q: Any, k: Any, decay: Any, spacing: Any, S: Any, before: Any, keep: Any, K: Any, steps: Any, v: Any,
    out: Any, width: Any, load_row: Any, spread_one: Any,
) -> None:  # fmt: skip
    """Carry a block of a state, K rows, over a chunk and add ``q S`` to ``out``, ``steps`` rows of width."""
    for n in range(K):
        h = load_row(S, n * width)
        if keep:
            store(before, n * width, h)
        for t in range(steps):
            at = t * spacing + n
            h = spread_one(decay, at) * h + spread_one(k, at) * load_row(v, t * width)
            store(out, t * width, load_row(out, t * width) + spread_one(q, at) * h)
        store(S, n * width, h)


@compiled
def _forward(arguments: Any, width: Any, load_row: Any, spread_one: Any) -> None:
    """Kernel of rows that are ``width`` long.

    Words: worker, workers, batch, L, heads, K, rates, blocks, groups, keep; strides of q and of k from
    sequence to sequence, step to step, head to head; scale (an array of one); q, k, decays, v, y, states
    (before, then after), states before chunks.
    """
    words = carray(arguments, (24,))
    batch, L, heads, K, rates = words[2], words[3], words[4], words[5], words[6]
    blocks, groups, keep = words[7], words[8], words[9]
    size, chunks, wide = K * width, (L + STEPS - 1) // STEPS, heads * blocks * width
    spacing = (K + LANES - 1) // LANES * LANES + GAP
    scale = carray(float32_pointer(words[16]), (1,))[0]
    q = array(words[17], reach(words[10], words[11], words[12], batch, L, heads, K))
    k = array(words[18], reach(words[13], words[14], words[15], batch, L, heads, K))
    decays, v = array(words[19], batch * L * heads * rates), array(words[20], batch * L * wide)
    y, state = array(words[21], batch * L * wide), array(words[22], batch * heads * blocks * size)
    before = array(words[23], keep * batch * heads * chunks * blocks * size)
    memory = scratch(3 * STEPS * spacing)
    here_q, here_k, here_decay = memory, memory[STEPS * spacing :], memory[2 * STEPS * spacing :]
    values, out = scratch(STEPS * width), scratch(STEPS * width)
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
            read_decays(decays[at * rates :], heads * rates, steps, rates, K, here_decay, spacing)
            for block in range(group * blocks // groups, (group + 1) * blocks // groups):
                column, strip = at * blocks * width + block * width, place * blocks + block
                flush_tiny(state, strip * size, size)
                read_rows(v[column:], wide, steps, width, values, width)
                out[: steps * width] = ZERO
                _advance(
                    here_q, here_k, here_decay, spacing, state[strip * size :],
                    before[keep * ((place * chunks + chunk) * blocks + block) * size :], keep, K, steps,
                    values, out, width, load_row, spread_one,
                )  # fmt: skip
                for t in range(steps):
                    for j in range(width):
                        y[column + t * wide + j] = scale * out[t * width + j]


@compiled
def _pull(
    q: Any, k: Any, decay: Any, spacing: Any, before: Any, carry: Any, K: Any, steps: Any, v: Any, dy: Any,
    grad_q: Any, grad_k: Any, grad_decay: Any, shared: Any, grad_v: Any, states: Any, products: Any,
    width: Any, load_row: Any, spread_one: Any,
) -> None:  # fmt: skip
    """Carry the gradient of a block of a state over a chunk, against time, and add up those of all else.

    ``carry`` is ``decay g`` of the step after the chunk, and becomes that of its first step. ``grad_q``,
    ``grad_k`` and ``grad_decay`` are (K, STEPS), ``grad_v`` and ``dy`` are ``steps`` rows of ``width``. Where
    rows share a decay, the last STEPS parts of ``products`` grow by its gradient instead.
    """
    for n in range(K):
        h = load_row(before, n * width)
        store(states, 0, h)
        for t in range(steps):
            at = t * spacing + n
            h = spread_one(decay, at) * h + spread_one(k, at) * load_row(v, t * width)
            store(states, (t + 1) * width, h)
        w = load_row(carry, n * width)
        for i in range(steps):
            t = steps - 1 - i
            at, row = t * spacing + n, t * width
            error = load_row(dy, row)
            g = w + spread_one(q, at) * error
            w = spread_one(decay, at) * g
            store(grad_v, row, load_row(grad_v, row) + spread_one(k, at) * g)
            store(products, t * HALF, fold(error * load_row(states, row + width)))
            store(products, (STEPS + t) * HALF, fold(g * load_row(v, t * width)))
            slope = fold(w * load_row(states, row))
            if shared:
                slope = load_part(products, (2 * STEPS + t) * HALF) + slope
            store(products, (2 * STEPS + t) * HALF, slope)
        store(carry, n * width, w)
        for t in range(0, steps, HALF):
            at = n * STEPS + t
            store(grad_q, at, load_part(grad_q, at) + sum_lanes(products, t * HALF))
            store(grad_k, at, load_part(grad_k, at) + sum_lanes(products, (STEPS + t) * HALF))
            if not shared:
                slope = sum_lanes(products, (2 * STEPS + t) * HALF)
                store(grad_decay, at, load_part(grad_decay, at) + slope)


@compiled
def _backward(arguments: Any, width: Any, load_row: Any, spread_one: Any) -> None:
    """Kernel of rows that are ``width`` long.

    Words as of :func:`_forward` to v; states before chunks, gradient of y; gradients of q, k (groups, batch,
    L, heads, K), of decays' logarithms (groups, batch, L, heads, rates), of v (batch, L, heads, blocks
    width); carry (gradient of the final, then of the initial state).
    """
    words = carray(arguments, (28,))
    batch, L, heads, K, rates = words[2], words[3], words[4], words[5], words[6]
    blocks, groups = words[7], words[8]
    size, chunks, wide = K * width, (L + STEPS - 1) // STEPS, heads * blocks * width
    spacing = (K + LANES - 1) // LANES * LANES + GAP
    scale = carray(float32_pointer(words[16]), (1,))[0]
    q = array(words[17], reach(words[10], words[11], words[12], batch, L, heads, K))
    k = array(words[18], reach(words[13], words[14], words[15], batch, L, heads, K))
    decays, v = array(words[19], batch * L * heads * rates), array(words[20], batch * L * wide)
    before = array(words[21], batch * heads * chunks * blocks * size)
    grad_y, grad_v = array(words[22], batch * L * wide), array(words[26], batch * L * wide)
    grad_q = rows(words[23], groups, batch * L * heads * K)
    grad_k = rows(words[24], groups, batch * L * heads * K)
    grad_decays = rows(words[25], groups, batch * L * heads * rates)
    carry = array(words[27], batch * heads * blocks * size)
    memory = scratch(3 * STEPS * spacing)
    here_q, here_k, here_decay = memory, memory[STEPS * spacing :], memory[2 * STEPS * spacing :]
    sums = scratch(3 * K * STEPS)
    sum_q, sum_k, sum_decay = sums, sums[K * STEPS :], sums[2 * K * STEPS :]
    states, products = scratch((STEPS + 1) * width), scratch(3 * STEPS * HALF)
    values, dy, dv = scratch(STEPS * width), scratch(STEPS * width), scratch(STEPS * width)
    number, workers = worker(words)
    for item in range(number, batch * heads * groups, workers):
        place, group = item // groups, item % groups
        b, head = place // heads, place % heads
        products[:] = ZERO  # the last chunk may be short: its rest adds nothing
        for chunk in range(chunks - 1, -1, -1):
            first = chunk * STEPS
            steps = min(STEPS, L - first)
            at = (b * L + first) * heads + head
            read_rows(q[b * words[10] + first * words[11] + head * words[12] :], words[11], steps, K,
                       here_q, spacing)  # fmt: skip
            read_rows(k[b * words[13] + first * words[14] + head * words[15] :], words[14], steps, K,
                       here_k, spacing)  # fmt: skip
            read_decays(decays[at * rates :], heads * rates, steps, rates, K, here_decay, spacing)
            sums[:] = ZERO
            if rates == 1:
                products[2 * STEPS * HALF :] = ZERO
            for block in range(group * blocks // groups, (group + 1) * blocks // groups):
                column, strip = at * blocks * width + block * width, place * blocks + block
                flush_tiny(carry, strip * size, size)
                read_rows(v[column:], wide, steps, width, values, width)
                for t in range(steps):
                    for j in range(width):
                        dy[t * width + j] = scale * grad_y[column + t * wide + j]
                dv[: steps * width] = ZERO
                _pull(
                    here_q, here_k, here_decay, spacing,
                    before[((place * chunks + chunk) * blocks + block) * size :], carry[strip * size :], K,
                    steps, values, dy, sum_q, sum_k, sum_decay, rates == 1, dv, states, products,
                    width, load_row, spread_one,
                )  # fmt: skip
                for t in range(steps):
                    for j in range(width):
                        grad_v[column + t * wide + j] = dv[t * width + j]
            write_gradients(sum_q, steps, K, grad_q[group, at * K :], heads * K)
            write_gradients(sum_k, steps, K, grad_k[group, at * K :], heads * K)
            if rates > 1:
                write_gradients(sum_decay, steps, K, grad_decays[group, at * K :], heads * K)
            else:
                for t in range(0, steps, HALF):
                    store(sum_decay, t, sum_lanes(products, (2 * STEPS + t) * HALF))
                for t in range(steps):
                    grad_decays[group, at + t * heads] = sum_decay[t]


def forward_doubles(arguments: Any) -> None:
    """Kernel of rows of DOUBLE; words of :func:`_forward`."""
    _forward(arguments, DOUBLE, load_double, spread_item_double)


def backward_doubles(arguments: Any) -> None:
    """Kernel of rows of DOUBLE; words of :func:`_backward`."""
    _backward(arguments, DOUBLE, load_double, spread_item_double)


def forward_vectors(arguments: Any) -> None:
    """Kernel of rows of LANES; words of :func:`_forward`."""
    _forward(arguments, LANES, load, spread_item)


def backward_vectors(arguments: Any) -> None:
    """Kernel of rows of LANES; words of :func:`_backward`."""
    _backward(arguments, LANES, load, spread_item)


def forward_parts(arguments: Any) -> None:
    """Kernel of rows of HALF; words of :func:`_forward`."""
    _forward(arguments, HALF, load_part, spread_item_part)


def backward_parts(arguments: Any) -> None:
    """Kernel of rows of HALF; words of :func:`_backward`."""
    _backward(arguments, HALF, load_part, spread_item_part)
