"""Queries and keys of length one, in kernels: Numba code."""

from typing import Any

import numpy as np

from compressm.scan.delta_rule.unit import EPS
from compressm.scan.runtime.arrays import copy_row
from compressm.scan.runtime.pointers import compiled
from compressm.scan.runtime.vectors import load_part, spread_item_part, store, sum_lanes
from compressm.scan.runtime.widths import HALF
from compressm.scan.ssd.recurrent_layout import STEPS
from compressm.scan.ssd.row_access import write_gradients

ONE, SMALLEST = np.float32(1.0), np.float32(EPS)


@compiled
def scale_to_unit(x: Any, spacing: Any, steps: Any, K: Any, parts: Any, inverse: Any) -> None:
    """Rows of ``x``, zero behind K, to length one; ``inverse`` has what they were multiplied with."""
    for t in range(steps):
        first = load_part(x, t * spacing)
        total = first * first
        for n in range(HALF, K, HALF):
            value = load_part(x, t * spacing + n)
            total = total + value * value
        store(parts, t * HALF, total)
    for t in range(0, steps, HALF):
        store(inverse, t, sum_lanes(parts, t * HALF))
    for t in range(steps):
        inverse[t] = ONE / np.sqrt(inverse[t] + SMALLEST)
        for n in range(0, K, HALF):
            at = t * spacing + n
            store(x, at, load_part(x, at) * spread_item_part(inverse, t))


@compiled
def write_unit_gradients(
    grad: Any, x: Any, spacing: Any, steps: Any, K: Any, parts: Any, inverse: Any, memory: Any, out: Any,
    stride: Any,
) -> None:  # fmt: skip
    """A gradient (K, STEPS) of unit rows ``x`` as that of the rows before, to rows ``stride`` apart."""
    write_gradients(grad, steps, K, memory, spacing)
    for t in range(steps):
        total = load_part(memory, t * spacing) * load_part(x, t * spacing)
        for n in range(HALF, K, HALF):
            total = total + load_part(memory, t * spacing + n) * load_part(x, t * spacing + n)
        store(parts, t * HALF, total)
    along = memory[STEPS * spacing :]
    for t in range(0, steps, HALF):
        store(along, t, sum_lanes(parts, t * HALF))
    for t in range(steps):
        for n in range(0, K, HALF):
            at = t * spacing + n
            across = load_part(memory, at) - load_part(x, at) * spread_item_part(along, t)
            store(memory, at, across * spread_item_part(inverse, t))
        copy_row(memory, t * spacing, K, out, t * stride)
