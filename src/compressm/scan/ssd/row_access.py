"""What kernels of matrix states read and write alike, row by row: Numba code."""

from typing import Any

import numpy as np

from compressm.scan.runtime.arrays import ZERO, copy_row
from compressm.scan.runtime.functions import LOG2_E, exp2
from compressm.scan.runtime.pointers import compiled
from compressm.scan.runtime.vectors import load, spread, store
from compressm.scan.runtime.widths import LANES
from compressm.scan.ssd.recurrent_layout import STEPS

TINY = np.float32(1e-30)
GAP = 16
"""Floats more from row to row of scratch arrays, so that equal columns do not share cache sets."""


@compiled
def flush_tiny(x: Any, first: Any, count: Any) -> None:
    """Zero where numbers are tiny: states that fade must not linger as slow subnormal numbers."""
    for i in range(first, first + count):
        x[i] = ZERO if abs(x[i]) < TINY else x[i]


@compiled
def read_rows(x: Any, stride: Any, steps: Any, width: Any, out: Any, spacing: Any) -> None:
    """Copy ``steps`` rows of ``x``, ``stride`` apart, to a scratch array."""
    for t in range(steps):
        copy_row(x, t * stride, width, out, t * spacing)


@compiled
def read_decays(x: Any, stride: Any, steps: Any, rates: Any, K: Any, out: Any, spacing: Any) -> None:
    """Decays from their logarithms, row by row; a single one of a head is every key channel's."""
    if rates > 1:
        read_rows(x, stride, steps, K, out, spacing)
        for at in range(0, steps * spacing, LANES):
            store(out, at, exp2(load(out, at) * spread(LOG2_E)))
    else:
        for t in range(steps):
            out[t] = x[t * stride]
        for at in range(0, steps, LANES):
            store(out, at, exp2(load(out, at) * spread(LOG2_E)))
        for t in range(steps - 1, -1, -1):
            decay = out[t]
            for n in range(K):
                out[t * spacing + n] = decay


@compiled
def reach(sequence: Any, step: Any, head: Any, batch: Any, L: Any, heads: Any, K: Any) -> Any:
    """Elements from the first to the last one at these strides."""
    return (batch - 1) * sequence + (L - 1) * step + (heads - 1) * head + K


@compiled
def write_gradients(grad: Any, steps: Any, K: Any, out: Any, stride: Any) -> None:
    """A gradient (K, STEPS) to rows of K, ``stride`` apart."""
    for t in range(steps):
        for n in range(K):
            out[t * stride + n] = grad[n * STEPS + t]
