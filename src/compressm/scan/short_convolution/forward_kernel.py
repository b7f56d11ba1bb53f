"""The short causal convolution with bias and SiLU: Numba kernels.

Each worker takes runs of chunks of steps: steps are independent but for the K - 1 inputs before a chunk,
which are read again. Inputs and outputs are float32 or bfloat16, everything else is float32.
"""

from typing import Any

from numba import carray

from compressm.scan.runtime.arrays import array, copy_row, scratch
from compressm.scan.runtime.functions import sigmoid
from compressm.scan.runtime.pointers import compiled, float32_pointer, uint16_pointer, worker
from compressm.scan.runtime.vectors import store
from compressm.scan.runtime.widths import LANES
from compressm.scan.short_convolution import columns
from compressm.scan.short_convolution.layout import STEPS
from compressm.scan.short_convolution.strips import (
    filtered,
    read_filters,
    read_past,
    read_rows,
    write_past,
)


@compiled
def _convolve(
    strip: Any, filters: Any, K: Any, steps: Any, silu: Any, width: Any, channels: Any, row: Any, y: Any,
    start: Any,
) -> None:  # fmt: skip
    for t in range(steps):
        for c in range(0, width, LANES):
            value = filtered(strip, t * width + c, filters, c, K, width)
            if silu:
                value = value * sigmoid(value)
            store(row, c, value)
        copy_row(row, 0, channels, y, start + t * channels)


@compiled
def _forward(arguments: Any, pointer: Any) -> None:
    """Kernel of inputs and outputs at a ``pointer``.

    Words: worker, workers, batch, L, channels, K, groups, silu; strides of x from sequence to sequence and
    from step to step; whether there are a bias and a window; x, weight (channels, K), bias, window (batch,
    channels, K - 1); y (batch, L, channels) and the final window.
    """
    words = carray(arguments, (18,))
    batch, L, channels, K, groups, silu = words[2], words[3], words[4], words[5], words[6], words[7]
    per_sequence, stride, past = words[8], words[9], K - 1
    x = carray(pointer(words[12]), ((batch - 1) * per_sequence + (L - 1) * stride + channels,))
    weight, bias = array(words[13], channels * K), array(words[14], words[10] * channels)
    size, held = channels * past, words[11] * channels * past
    window, y = array(words[15], batch * held), carray(pointer(words[16]), (batch * L * channels,))
    final = array(words[17], batch * size)
    width, chunks = (channels + LANES - 1) // LANES * LANES, (L + STEPS - 1) // STEPS
    filters, strip, row = scratch((K + 1) * width), scratch((STEPS + past) * width), scratch(width)
    read_filters(weight, bias, channels, K, filters, width)
    by_columns = columns.fits(channels, L, K)
    number, workers = worker(words)
    for item in range(number, batch * groups, workers):
        b, group = item // groups, item % groups
        here, before = x[b * per_sequence :], window[b * held : (b + 1) * held]
        for chunk in range(group * chunks // groups, (group + 1) * chunks // groups):
            first = chunk * STEPS
            steps = min(STEPS, L - first)
            read_past(here, stride, before, first, past, channels, strip, width)
            if by_columns:
                columns.convolve(
                    here, first * stride, stride, strip, filters, steps, silu, width, y,
                    (b * L + first) * channels,
                )  # fmt: skip
                continue
            read_rows(here, first * stride, stride, steps, channels, strip[past * width :], width)
            _convolve(strip, filters, K, steps, silu, width, channels, row, y, (b * L + first) * channels)
        if group == groups - 1:
            read_past(here, stride, before, L, past, channels, strip, width)
            write_past(strip, past, channels, width, final[b * size :])


def forward_float32(arguments: Any) -> None:
    """Kernel of float32; words of :func:`_forward`."""
    _forward(arguments, float32_pointer)


def forward_bfloat16(arguments: Any) -> None:
    """Kernel of bfloat16; words of :func:`_forward`."""
    _forward(arguments, uint16_pointer)
