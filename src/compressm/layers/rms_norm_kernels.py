"""The root-mean-square norm over the rows of a matrix: Numba kernels for float32 on a CPU.

Rows are cut into groups by their number alone, so that sums do not depend on the number of workers.
"""

from typing import Any

import numpy as np
from numba import carray, njit

from compressm.scan.runtime.pointers import compiled, float32_pointer, float64_pointer, worker
from compressm.scan.runtime.vectors import load, spread, store
from compressm.scan.runtime.widths import LANES

_ONE = np.float32(1.0)

# A sum over a row whose order is free becomes one of vectors.
_FREE = {"error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}


@njit(**_FREE)  # type: ignore[untyped-decorator, unused-ignore]
def _square(x: Any) -> Any:
    total = np.float32(0.0)
    for j in range(x.size):
        total += x[j] * x[j]
    return total


@njit(**_FREE)  # type: ignore[untyped-decorator, unused-ignore]
def _product(grad: Any, weight: Any, x: Any) -> Any:
    total = np.float32(0.0)
    for j in range(x.size):
        total += grad[j] * weight[j] * x[j]
    return total


@compiled
def _scale(x: Any, weight: Any, scale: Any, out: Any) -> None:
    whole = x.size // LANES * LANES
    for j in range(0, whole, LANES):
        store(out, j, load(x, j) * spread(scale) * load(weight, j))
    for j in range(whole, x.size):
        out[j] = x[j] * scale * weight[j]


@compiled
def _pull(grad: Any, x: Any, weight: Any, scale: Any, shrink: Any, out: Any, sums: Any) -> None:
    whole = x.size // LANES * LANES
    for j in range(0, whole, LANES):
        flow, here = load(grad, j) * spread(scale), load(x, j)
        store(sums, j, load(sums, j) + flow * here)
        store(out, j, flow * load(weight, j) - spread(shrink) * here)
    for j in range(whole, x.size):
        along = grad[j] * scale
        sums[j] += along * x[j]
        out[j] = along * weight[j] - shrink * x[j]


def rms_norm(arguments: Any) -> None:
    """``out = x scale weight`` with ``scale = 1 / rms(x)``, which is kept.

    Words: worker, workers, rows M and channels H; x (M, H), weight (H,), eps (float64);
    out (M, H), scale (M,).
    """
    words = carray(arguments, (9,))
    number, workers = worker(words)
    M, H = words[2], words[3]
    x, out = carray(float32_pointer(words[4]), (M, H)), carray(float32_pointer(words[7]), (M, H))
    weight, scale = carray(float32_pointer(words[5]), (H,)), carray(float32_pointer(words[8]), (M,))
    eps = np.float32(carray(float64_pointer(words[6]), (1,))[0])
    for row in range(M * number // workers, M * (number + 1) // workers):
        scale[row] = _ONE / np.sqrt(_square(x[row]) / np.float32(H) + eps)
        _scale(x[row], weight, scale[row], out[row])


def rms_norm_backward(arguments: Any) -> None:
    """Gradients of x, and of the weight for each group, which grow from what is there.

    Words: worker, workers, rows M, channels H, groups; gradient of the outputs (M, H), x, weight, scale;
    gradient of x, sums (groups, H).
    """
    words = carray(arguments, (11,))
    number, workers = worker(words)
    M, H, groups = words[2], words[3], words[4]
    grad, x = carray(float32_pointer(words[5]), (M, H)), carray(float32_pointer(words[6]), (M, H))
    weight, scale = carray(float32_pointer(words[7]), (H,)), carray(float32_pointer(words[8]), (M,))
    out, sums = carray(float32_pointer(words[9]), (M, H)), carray(float32_pointer(words[10]), (groups, H))
    for group in range(number, groups, workers):
        for row in range(M * group // groups, M * (group + 1) // groups):
            s = scale[row]
            shrink = _product(grad[row], weight, x[row]) * s * s * s / np.float32(H)
            _pull(grad[row], x[row], weight, s, shrink, out[row], sums[group])
