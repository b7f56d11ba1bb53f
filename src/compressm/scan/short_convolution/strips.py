"""What both kernels read: strips of steps, copied to where no border needs a thought. Numba code.

A strip has a row for each step, of ``width`` floats: the channels, and zeros up to a whole number of vectors.
Rows are read and written whole, in the order in which they lie in memory.
"""

from typing import Any

from compressm.scan.runtime.arrays import ZERO, copy_row
from compressm.scan.runtime.pointers import compiled
from compressm.scan.runtime.vectors import load, spread, store
from compressm.scan.runtime.widths import LANES


@compiled
def clear(strip: Any, first: Any, last: Any, width: Any) -> None:
    """Zero rows ``first`` to ``last`` of a strip."""
    for at in range(first * width, last * width, LANES):
        store(strip, at, spread(ZERO))


@compiled
def read_rows(x: Any, start: Any, stride: Any, count: Any, channels: Any, strip: Any, width: Any) -> None:
    """Copy ``count`` rows of ``x``, which are ``stride`` apart, to a strip."""
    for t in range(count):
        copy_row(x, start + t * stride, channels, strip, t * width)


@compiled
def read_filters(weight: Any, bias: Any, channels: Any, K: Any, strip: Any, width: Any) -> None:
    """Weights of K steps, then the bias; ``weight`` is (channels, K), ``bias`` may be empty."""
    for c in range(channels):
        for j in range(K):
            strip[j * width + c] = weight[c * K + j]
        if bias.size > 0:
            strip[K * width + c] = bias[c]


@compiled
def read_past(
    x: Any, stride: Any, window: Any, first: Any, past: Any, channels: Any, strip: Any, width: Any
) -> None:
    """The ``past`` inputs before step ``first``: of ``x``, and before it of ``window`` (channels, past).

    An empty ``window`` is zero.
    """
    for i in range(past):
        t = first - past + i
        if t >= 0:
            copy_row(x, t * stride, channels, strip, i * width)
        else:
            clear(strip, i, i + 1, width)
            if window.size > 0:
                for c in range(channels):
                    strip[i * width + c] = window[c * past + t + past]


@compiled
def write_past(strip: Any, past: Any, channels: Any, width: Any, out: Any) -> None:
    """Write a strip of ``past`` steps to ``out`` (channels, past)."""
    for c in range(channels):
        for i in range(past):
            out[c * past + i] = strip[i * width + c]


@compiled
def filtered(strip: Any, at: Any, filters: Any, c: Any, K: Any, width: Any) -> Any:
    """Bias and weighted sum of K steps, for the channels from ``c`` on; ``at`` is where the first step is."""
    total = load(filters, K * width + c)
    for j in range(K):
        total = total + load(filters, j * width + c) * load(strip, at + j * width)
    return total
