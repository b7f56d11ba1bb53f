"""Memory of the kernels, and what both passes read alike: Numba code."""

from typing import Any

from numba import carray

from compressm.scan.runtime.arrays import ZERO
from compressm.scan.runtime.functions import faded, sigmoid_from, softplus, softplus_from
from compressm.scan.runtime.pointers import compiled
from compressm.scan.runtime.vectors import load, spread, spread_item, store
from compressm.scan.runtime.widths import LANES
from compressm.scan.selective.layout import STEPS

SPACING = STEPS * LANES + 5 * LANES
"""Floats from one scratch array to the next: no power of two, or equal steps would share cache sets."""


@compiled
def slices(pointer: Any, per_sequence: Any, stride: Any, batch: Any, L: Any, width: Any) -> Any:
    """Everything from the first to the last element of ``batch L`` rows that lie at these strides."""
    last = (batch - 1) * per_sequence + (L - 1) * stride + width
    return carray(pointer, (last if batch > 0 else 0,))


@compiled
def make_deltas(low: Any, stride: Any, weight: Any, rank: Any, steps: Any, delta: Any) -> None:
    """``delta_t = low_t weight`` of a chunk, LANES side by side, from ``rank`` numbers of each step."""
    for t in range(steps):
        total = spread(ZERO)
        for r in range(rank):
            total = total + spread_item(low, t * stride + r) * load(weight, r * LANES)
        store(delta, t * LANES, total)


@compiled
def read_inputs(
    u: Any, start: Any, stride: Any, delta: Any, first: Any, gap: Any, bias: Any, channel: Any, steps: Any,
    positive: Any, dt: Any, v: Any,
) -> None:  # fmt: skip
    """Time steps ``dt`` and inputs ``v = dt u`` of a chunk.

    Rows of u are ``stride`` apart from ``start`` on, those of delta ``gap`` from ``first`` on; ``dt`` may be
    where delta lies.
    """
    for t in range(steps):
        step = load(delta, first + t * gap) + load(bias, channel)
        if positive:
            step = softplus(step)
        store(dt, t * LANES, step)
        store(v, t * LANES, step * load(u, start + t * stride))


@compiled
def read_inputs_and_slopes(
    u: Any, start: Any, stride: Any, delta: Any, first: Any, gap: Any, bias: Any, channel: Any, steps: Any,
    positive: Any, dt: Any, v: Any, slope: Any,
) -> None:  # fmt: skip
    """As :func:`read_inputs`; ``slope`` is that of softplus, and not written without it."""
    for t in range(steps):
        step = load(delta, first + t * gap) + load(bias, channel)
        if positive:
            w = faded(step)
            store(slope, t * LANES, sigmoid_from(step, w))
            step = softplus_from(step, w)
        store(dt, t * LANES, step)
        store(v, t * LANES, step * load(u, start + t * stride))
