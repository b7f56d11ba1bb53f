"""Both ends of a language model: embeddings of tokens and cross entropy. Numba kernels for a CPU."""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.runtime.arrays import ZERO, array, copy_row, rows, scratch, zero
from compressm.scan.runtime.functions import LOG2_E, exp2
from compressm.scan.runtime.pointers import compiled, float64_pointer, int64_pointer
from compressm.scan.runtime.vectors import below, load, put, spread, store
from compressm.scan.runtime.widths import LANES

_LOWEST = np.float32(-np.inf)
_LARGE = 1e200  # times a sum of exponentials below 1, of a whole vocabulary: far from infinity


def embed(arguments: Any) -> None:
    """``out_t = weight[token_t]``.

    Words: worker, workers, L, H, V; tokens (L,), weight (V, H), out (L, H).
    """
    words = carray(arguments, (8,))
    L, H, V = words[2], words[3], words[4]
    tokens, weight, out = carray(int64_pointer(words[5]), (L,)), rows(words[6], V, H), rows(words[7], L, H)
    for t in range(L):
        copy_row(weight[tokens[t]], 0, H, out[t], 0)


def embed_backward(arguments: Any) -> None:
    """``sums[token_t] += grad_t``.

    Words: worker, workers, L, H, V; tokens (L,), grad (L, H), sums (V, H).
    """
    words = carray(arguments, (8,))
    L, H, V = words[2], words[3], words[4]
    tokens, grad, sums = carray(int64_pointer(words[5]), (L,)), rows(words[6], L, H), rows(words[7], V, H)
    whole = H // LANES * LANES
    for t in range(L):
        row, added = sums[tokens[t]], grad[t]
        for c in range(0, whole, LANES):
            store(row, c, load(row, c) + load(added, c))
        for c in range(whole, H):
            row[c] += added[c]


@compiled
def _largest(row: Any, room: Any) -> Any:
    """The largest number of a row of whole vectors; lanes that meet no number count as lowest."""
    top = spread(_LOWEST)
    for c in range(0, row.size, LANES):
        x = load(row, c)
        top = below(top, x, x, top)
    store(room, 0, top)
    # Four chains of comparisons side by side instead of one.
    a, b, c, d = room[0], room[1], room[2], room[3]
    for lane in range(4, LANES, 4):
        a, b = max(a, room[lane]), max(b, room[lane + 1])
        c, d = max(c, room[lane + 2]), max(d, room[lane + 3])
    return max(max(a, b), max(c, d))


@compiled
def _exponentials(row: Any, top: Any, room: Any) -> Any:
    """Write ``exp(x - top)`` over each x; returns their sum."""
    total = spread(ZERO)
    for c in range(0, row.size, LANES):
        power = exp2((load(row, c) - spread(top)) * spread(LOG2_E))
        store(row, c, power)
        total = total + power
    store(room, 0, total)
    a, b, c, d = room[0], room[1], room[2], room[3]
    for lane in range(4, LANES, 4):
        a, b, c, d = a + room[lane], b + room[lane + 1], c + room[lane + 2], d + room[lane + 3]
    return (a + b) + (c + d)


@compiled
def _scale(row: Any, factor: Any) -> None:
    for c in range(0, row.size, LANES):
        store(row, c, load(row, c) * spread(factor))


def cross_entropy(arguments: Any) -> None:
    """Sum of ``log(sum(exp(x_t))) - x_t[target_t]``, hits, and the gradient times a factor over the logits.

    A target that is no word of the vocabulary does not count. Hits are targets that are the first of the
    largest logits.

    Words: worker, workers, L, V, width W of a row, whole vectors; logits (L, W), targets (L,), the factor;
    loss (float64), hits (int64); whether the gradient is wanted: if not, logits are lost all the same.
    """
    words = carray(arguments, (11,))
    L, V, W = words[2], words[3], words[4]
    logits, targets = rows(words[5], L, W), carray(int64_pointer(words[6]), (L,))
    factor = array(words[7], 1)[0]
    loss, hits = carray(float64_pointer(words[8]), (1,)), carray(int64_pointer(words[9]), (1,))
    wanted, room = words[10] != 0, scratch(LANES)
    # A logarithm of a product in place of one for each step: it takes as long as all else.
    total, product, found = 0.0, 1.0, 0
    for t in range(L):
        row, target = logits[t], targets[t]
        if target < 0 or target >= V:
            zero(row)
            continue
        for c in range(V, W):
            put(row, c, _LOWEST)
        right = row[target]
        top = _largest(row, room)
        if right == top:
            first = 0
            while row[first] != top:
                first += 1
            found += first == target
        mass = _exponentials(row, top, room)
        total += np.float64(top) - np.float64(right)
        product *= np.float64(mass)
        if not product < _LARGE:
            total += np.log(product)
            product = 1.0
        if wanted:
            _scale(row, factor / mass)
            row[target] -= factor
    loss[0], hits[0] = total + np.log(product), found
