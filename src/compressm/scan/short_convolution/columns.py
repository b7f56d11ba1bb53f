"""Four steps, as Mamba's filters see them, for whole vectors of channels: Numba code.

The last three inputs, and in the adjoint the last three gradients and the sums of a chunk, stay in registers
while time runs: each input is read once, where it lies. Any other number of steps, and channels that fill no
vector, take the way of :mod:`~compressm.scan.short_convolution.strips`.
"""

from typing import Any

import numpy as np

from compressm.scan.runtime.arrays import ZERO
from compressm.scan.runtime.functions import sigmoid
from compressm.scan.runtime.pointers import compiled
from compressm.scan.runtime.vectors import load, spread, store
from compressm.scan.runtime.widths import LANES

ONE = np.float32(1.0)
TAPS = 4
PAST = TAPS - 1


@compiled
def fits(channels: Any, L: Any, K: Any) -> Any:
    """Whether this is a case for columns."""
    return K == TAPS and channels % LANES == 0 and L >= PAST


@compiled
def _filtered(filters: Any, c: Any, width: Any, a: Any, b: Any, x: Any, d: Any) -> Any:
    """Bias and weighted sum of four inputs, the oldest first."""
    total = load(filters, TAPS * width + c) + load(filters, c) * a
    total = total + load(filters, width + c) * b
    total = total + load(filters, 2 * width + c) * x
    return total + load(filters, 3 * width + c) * d


@compiled
def convolve(
    x: Any, start: Any, stride: Any, past: Any, filters: Any, steps: Any, silu: Any, width: Any, y: Any,
    out: Any,
) -> None:  # fmt: skip
    """Outputs of ``steps`` inputs, whose rows are ``stride`` apart from ``start`` on.

    ``past`` has the three rows before. Those of outputs are ``width`` apart from ``out`` on.
    """
    for c in range(0, width, LANES):
        x0, x1, x2 = load(past, c), load(past, width + c), load(past, 2 * width + c)
        for t in range(steps):
            x3 = load(x, start + t * stride + c)
            value = _filtered(filters, c, width, x0, x1, x2, x3)
            if silu:
                value = value * sigmoid(value)
            store(y, out + t * width + c, value)
            x0, x1, x2 = x1, x2, x3


@compiled
def _slope(value: Any) -> Any:
    """The slope of SiLU."""
    opened = sigmoid(value)
    return opened * (spread(ONE) + value * (spread(ONE) - opened))


@compiled
def _pulled(filters: Any, c: Any, width: Any, d0: Any, d1: Any, d2: Any, d3: Any) -> Any:
    """Gradient of the input three steps ago, from those of the four sums that it went into."""
    total = load(filters, 3 * width + c) * d0 + load(filters, 2 * width + c) * d1
    return total + load(filters, width + c) * d2 + load(filters, c) * d3


@compiled
def pull(
    x: Any, start: Any, stride: Any, past: Any, grad: Any, first: Any, gap: Any, filters: Any, steps: Any,
    silu: Any, width: Any, history: Any, sums: Any, lead: Any, leading: Any, out: Any, stride_out: Any,
) -> None:  # fmt: skip
    """Gradients of the inputs from three steps before a chunk to three before its end.

    Rows of ``x`` and ``past`` are those of :func:`convolve`, gradients of outputs are ``gap`` apart from
    ``first`` on. ``history`` (3, width) has gradients of the three sums before the chunk, and then of its
    last three. Of the first ``leading`` steps results go to ``lead``, of the others to ``out``, which begins
    with those. ``sums`` (5, width) of weights and bias grow.
    """
    for c in range(0, width, LANES):
        x0, x1, x2 = load(past, c), load(past, width + c), load(past, 2 * width + c)
        d0, d1, d2 = load(history, c), load(history, width + c), load(history, 2 * width + c)
        w0, w1, w2, w3, bias = spread(ZERO), spread(ZERO), spread(ZERO), spread(ZERO), spread(ZERO)
        for t in range(steps):
            x3, d3 = load(x, start + t * stride + c), load(grad, first + t * gap + c)
            if silu:
                d3 = d3 * _slope(_filtered(filters, c, width, x0, x1, x2, x3))
            w0, w1, w2, w3, bias = w0 + d3 * x0, w1 + d3 * x1, w2 + d3 * x2, w3 + d3 * x3, bias + d3
            found = _pulled(filters, c, width, d0, d1, d2, d3)
            if t < leading:
                store(lead, t * width + c, found)
            else:
                store(out, (t - leading) * stride_out + c, found)
            x0, x1, x2, d0, d1, d2 = x1, x2, x3, d1, d2, d3
        store(sums, c, load(sums, c) + w0)
        store(sums, width + c, load(sums, width + c) + w1)
        store(sums, 2 * width + c, load(sums, 2 * width + c) + w2)
        store(sums, 3 * width + c, load(sums, 3 * width + c) + w3)
        store(sums, 4 * width + c, load(sums, 4 * width + c) + bias)
        store(history, c, d0)
        store(history, width + c, d1)
        store(history, 2 * width + c, d2)


@compiled
def pull_last(
    x: Any, start: Any, stride: Any, past: Any, grad: Any, first: Any, gap: Any, filters: Any, known: Any,
    silu: Any, width: Any, history: Any, after: Any, added: Any, leading: Any, out: Any, stride_out: Any,
) -> None:  # fmt: skip
    """Gradients of the last three inputs of a run of chunks; operands are those of :func:`pull` behind it.

    Of the three steps behind it ``known`` are the sequence's. ``after`` (3, width), gradients of the final
    window, are added from row 0 on to those from number ``added`` on. The first ``leading`` are not wanted.
    """
    for c in range(0, width, LANES):
        x0, x1, x2 = load(past, c), load(past, width + c), load(past, 2 * width + c)
        d0, d1, d2 = load(history, c), load(history, width + c), load(history, 2 * width + c)
        for t in range(PAST):
            d3 = spread(ZERO)
            if t < known:
                x3, d3 = load(x, start + t * stride + c), load(grad, first + t * gap + c)
                if silu:
                    d3 = d3 * _slope(_filtered(filters, c, width, x0, x1, x2, x3))
                x0, x1, x2 = x1, x2, x3
            found = _pulled(filters, c, width, d0, d1, d2, d3)
            if t >= added:
                found = found + load(after, (t - added) * width + c)
            if t >= leading:
                store(out, (t - leading) * stride_out + c, found)
            d0, d1, d2 = d1, d2, d3
