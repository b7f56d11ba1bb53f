"""Batch normalisation over the rows of a matrix: Numba kernels for float32 on a CPU.

Each direction reads the matrix twice: once for sums over the rows, which every worker makes of its own share,
and once for the result. A few rows are summed in float32, in registers, their sums in float64.
"""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.runtime.arrays import ZERO
from compressm.scan.runtime.pointers import compiled, float32_pointer, float64_pointer, uint8_pointer, worker
from compressm.scan.runtime.vectors import load, prefetch, prefetch_to_write, spread, store
from compressm.scan.runtime.widths import AHEAD, LANES

SUMMED = 32  # rows that are summed in float32


@compiled
def run_of(mask: Any, row: Any, last: Any) -> Any:
    """Whether a row is data, and where rows end that are like it, at ``last`` at most.

    ``mask`` is the address of a byte for each row, or 0 if all are data.
    """
    if mask == 0:
        return True, last
    bytes_of = carray(uint8_pointer(mask), (last,))
    stop = row + 1
    while stop < last and (bytes_of[stop] != 0) == (bytes_of[row] != 0):
        stop += 1
    return bytes_of[row] != 0, stop


@compiled
def _share(rows: Any, number: Any, workers: Any) -> Any:
    return rows * number // workers, rows * (number + 1) // workers


@compiled
def _add_moments(x: Any, sums: Any, part: Any) -> None:
    """Add the values and squares of a few rows to ``sums``; ``part`` is scratch, both (2, H).

    Differences from the first row are summed in float32: what that row has beyond the others, which costs
    digits, is part of the variance, too.
    """
    rows, H = x.shape
    whole, flat = H // LANES * LANES, x.reshape(rows * H)
    for j in range(0, whole, LANES):
        shift = load(flat, j)
        total, square = spread(ZERO), spread(ZERO)
        for row in range(1, rows):
            prefetch(flat, row * H + j + LANES)
            value = load(flat, row * H + j) - shift
            total = total + value
            square = square + value * value
        store(part[0], j, total)
        store(part[1], j, square)
    for j in range(whole, H):
        part[0, j] = part[1, j] = 0
    for row in range(1, rows):
        for j in range(whole, H):
            value = x[row, j] - x[0, j]
            part[0, j] += value
            part[1, j] += value * value
    for j in range(H):
        shift, total = np.float64(x[0, j]), np.float64(part[0, j])
        sums[0, j] += rows * shift + total
        sums[1, j] += shift * (rows * shift + 2 * total) + part[1, j]


@compiled
def _add_products(grad: Any, normal: Any, sums: Any, part: Any) -> None:
    """Add a few rows of gradients to ``sums``, alone and times the normalised values; ``part`` is scratch."""
    rows, H = grad.shape
    whole, flat, values = H // LANES * LANES, grad.reshape(rows * H), normal.reshape(rows * H)
    for j in range(0, whole, LANES):
        total, product = spread(ZERO), spread(ZERO)
        for row in range(rows):
            slope = load(flat, row * H + j)
            total = total + slope
            product = product + slope * load(values, row * H + j)
        store(part[0], j, total)
        store(part[1], j, product)
    for j in range(whole, H):
        part[0, j] = part[1, j] = 0
    for row in range(rows):
        for j in range(whole, H):
            part[0, j] += grad[row, j]
            part[1, j] += grad[row, j] * normal[row, j]
    for j in range(H):
        sums[0, j] += part[0, j]
        sums[1, j] += part[1, j]


@compiled
def normalise_rows(x: Any, mean: Any, scale: Any, out: Any, first: Any, last: Any, mask: Any) -> None:
    """``out = (x - mean) * scale`` in rows ``first .. last``, 0 where the mask has no data."""
    row = first
    while row < last:
        data, stop = run_of(mask, row, last)
        for k in range(row, stop):
            if data:
                _normalise_row(x[k], mean, scale, out[k])
            else:
                out[k] = 0
        row = stop


@compiled
def _normalise_row(x: Any, mean: Any, scale: Any, out: Any) -> None:
    whole = x.size // LANES * LANES
    for j in range(0, whole, LANES):
        prefetch(x, j + AHEAD)
        prefetch_to_write(out, j + AHEAD)
        store(out, j, (load(x, j) - load(mean, j)) * load(scale, j))
    for j in range(whole, x.size):
        out[j] = (x[j] - mean[j]) * scale[j]


@compiled
def _pull(g: Any, normal: Any, mean: Any, slope: Any, scale: Any, out: Any) -> None:
    whole = g.size // LANES * LANES
    for j in range(0, whole, LANES):
        prefetch(g, j + AHEAD)
        prefetch(normal, j + AHEAD)
        prefetch_to_write(out, j + AHEAD)
        pulled = load(g, j) - load(mean, j) - load(normal, j) * load(slope, j)
        store(out, j, pulled * load(scale, j))
    for j in range(whole, g.size):
        out[j] = (g[j] - mean[j] - normal[j] * slope[j]) * scale[j]


# Every kernel's words: worker, workers, rows M and channels H, then arrays of float32: matrices (M, H) and
# vectors (H,); ``sums`` is float64, two vectors for each worker, and starts as zero. The last word is the
# address of a mask, as for :func:`run_of`.


def norm_sums(arguments: Any) -> None:
    """Sums of values and squares. Arrays: x, sums."""
    words = carray(arguments, (7,))
    number, workers = worker(words)
    M, H = words[2], words[3]
    x, sums = carray(float32_pointer(words[4]), (M, H)), carray(float64_pointer(words[5]), (workers, 2, H))
    row, last = _share(M, number, workers)
    part = np.empty((2, H), np.float32)
    while row < last:
        data, stop = run_of(words[6], row, min(row + SUMMED, last))
        if data:
            _add_moments(x[row:stop], sums[number], part)
        row = stop


def norm_apply(arguments: Any) -> None:
    """``out = (x - mean) * scale``, 0 where there are no data. Arrays: x, mean, scale, out."""
    words = carray(arguments, (9,))
    number, workers = worker(words)
    M, H = words[2], words[3]
    x, out = carray(float32_pointer(words[4]), (M, H)), carray(float32_pointer(words[7]), (M, H))
    mean, scale = carray(float32_pointer(words[5]), (H,)), carray(float32_pointer(words[6]), (H,))
    first, last = _share(M, number, workers)
    normalise_rows(x, mean, scale, out, first, last, words[8])


def norm_backward_sums(arguments: Any) -> None:
    """Sums of gradients, alone and times the normalised values. Arrays: grad, normal, sums."""
    words = carray(arguments, (8,))
    number, workers = worker(words)
    M, H = words[2], words[3]
    g, normal = carray(float32_pointer(words[4]), (M, H)), carray(float32_pointer(words[5]), (M, H))
    sums = carray(float64_pointer(words[6]), (workers, 2, H))
    row, last = _share(M, number, workers)
    part = np.empty((2, H), np.float32)
    while row < last:
        data, stop = run_of(words[7], row, min(row + SUMMED, last))
        if data:
            _add_products(g[row:stop], normal[row:stop], sums[number], part)
        row = stop


def norm_backward_apply(arguments: Any) -> None:
    """``out = (grad - mean - normal * slope) * scale``, 0 where there are no data.

    Arrays: grad, normal, mean, slope, scale, out.
    """
    words = carray(arguments, (11,))
    number, workers = worker(words)
    M, H = words[2], words[3]
    g, normal = carray(float32_pointer(words[4]), (M, H)), carray(float32_pointer(words[5]), (M, H))
    mean, slope = carray(float32_pointer(words[6]), (H,)), carray(float32_pointer(words[7]), (H,))
    scale, out = carray(float32_pointer(words[8]), (H,)), carray(float32_pointer(words[9]), (M, H))
    row, last = _share(M, number, workers)
    while row < last:
        data, stop = run_of(words[10], row, last)
        for k in range(row, stop):
            if data:
                _pull(g[k], normal[k], mean, slope, scale, out[k])
            else:
                out[k] = 0
        row = stop
