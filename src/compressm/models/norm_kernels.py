"""Batch normalisation over the rows of a matrix: Numba kernels for float32 on a CPU.

Each direction reads the matrix twice: once for sums over the rows, which every worker makes of its own share
in float64, and once for the result.
"""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.runtime.pointers import compiled, float32_pointer, float64_pointer, worker


@compiled
def _share(rows: Any, number: Any, workers: Any) -> Any:
    return rows * number // workers, rows * (number + 1) // workers


@compiled
def _add_row(x: Any, first: Any, second: Any) -> None:
    for j in range(x.size):
        value = np.float64(x[j])
        first[j] += value
        second[j] += value * value


@compiled
def _add_products(g: Any, normal: Any, first: Any, second: Any) -> None:
    for j in range(g.size):
        value = np.float64(g[j])
        first[j] += value
        second[j] += value * np.float64(normal[j])


@compiled
def _normalise(x: Any, mean: Any, scale: Any, out: Any) -> None:
    for j in range(x.size):
        out[j] = (x[j] - mean[j]) * scale[j]


@compiled
def _pull(g: Any, normal: Any, mean: Any, slope: Any, scale: Any, out: Any) -> None:
    for j in range(g.size):
        out[j] = (g[j] - mean[j] - normal[j] * slope[j]) * scale[j]


# Every kernel's words: worker, workers, rows M and channels H, then arrays of float32: matrices (M, H) and
# vectors (H,); ``sums`` is float64, two vectors for each worker, and starts as zero.


def norm_sums(arguments: Any) -> None:
    """Sums of values and squares. Arrays: x, sums."""
    words = carray(arguments, (6,))
    number, workers = worker(words)
    M, H = words[2], words[3]
    x, sums = carray(float32_pointer(words[4]), (M, H)), carray(float64_pointer(words[5]), (workers, 2, H))
    first, last = _share(M, number, workers)
    for row in range(first, last):
        _add_row(x[row], sums[number, 0], sums[number, 1])


def norm_apply(arguments: Any) -> None:
    """``out = (x - mean) * scale``. Arrays: x, mean, scale, out."""
    words = carray(arguments, (8,))
    number, workers = worker(words)
    M, H = words[2], words[3]
    x, out = carray(float32_pointer(words[4]), (M, H)), carray(float32_pointer(words[7]), (M, H))
    mean, scale = carray(float32_pointer(words[5]), (H,)), carray(float32_pointer(words[6]), (H,))
    first, last = _share(M, number, workers)
    for row in range(first, last):
        _normalise(x[row], mean, scale, out[row])


def norm_backward_sums(arguments: Any) -> None:
    """Sums of gradients, alone and times the normalised values. Arrays: grad, normal, sums."""
    words = carray(arguments, (7,))
    number, workers = worker(words)
    M, H = words[2], words[3]
    g, normal = carray(float32_pointer(words[4]), (M, H)), carray(float32_pointer(words[5]), (M, H))
    sums = carray(float64_pointer(words[6]), (workers, 2, H))
    first, last = _share(M, number, workers)
    for row in range(first, last):
        _add_products(g[row], normal[row], sums[number, 0], sums[number, 1])


def norm_backward_apply(arguments: Any) -> None:
    """``out = (grad - mean - normal * slope) * scale``. Arrays: grad, normal, mean, slope, scale, out."""
    words = carray(arguments, (10,))
    number, workers = worker(words)
    M, H = words[2], words[3]
    g, normal = carray(float32_pointer(words[4]), (M, H)), carray(float32_pointer(words[5]), (M, H))
    mean, slope = carray(float32_pointer(words[6]), (H,)), carray(float32_pointer(words[7]), (H,))
    scale, out = carray(float32_pointer(words[8]), (H,)), carray(float32_pointer(words[9]), (M, H))
    first, last = _share(M, number, workers)
    for row in range(first, last):
        _pull(g[row], normal[row], mean, slope, scale, out[row])
