"""Products of a few channels with a block of states, and the recurrence of a block: all in the first cache.

A block is 16 states. A row of it is a vector: 16 real parts, then 16 imaginary parts. Rows of channels are
``width`` numbers apart, a multiple of 8, of which those past the last channel are zero. Inner loops hold
several rows or columns of the result in registers, so that each number read serves several products: as many
as there are registers for. Numba code for float32.
"""

from typing import Any

import torch

from compressm.scan.runtime.arrays import ZERO
from compressm.scan.runtime.pointers import compiled
from compressm.scan.runtime.vectors import (
    load,
    load_octet,
    load_part,
    spread,
    spread_item,
    spread_item_octet,
    store,
)
from compressm.scan.runtime.widths import HALF, LANES, OCTET

TILE = 8
"""Rows are worked on in groups of that many: a chunk has so many rows, rounded up."""


@compiled
def project_four(channels: Any, width: Any, count: Any, weights: Any, block: Any, steps: Any) -> None:
    """As :func:`project`, four rows at once, in 16 registers of 16 numbers."""
    for k in range(0, steps, 4):
        a = b = c = d = spread(ZERO)
        at = k * width
        for h in range(count):
            weight = load(weights, h * LANES)
            a = a + spread_item(channels, at + h) * weight
            b = b + spread_item(channels, at + width + h) * weight
            c = c + spread_item(channels, at + 2 * width + h) * weight
            d = d + spread_item(channels, at + 3 * width + h) * weight
        store(block, k * LANES, a)
        store(block, (k + 1) * LANES, b)
        store(block, (k + 2) * LANES, c)
        store(block, (k + 3) * LANES, d)


@compiled
def project_two(channels: Any, width: Any, count: Any, weights: Any, block: Any, steps: Any) -> None:
    """As :func:`project`, two rows at once, in 16 registers of 8 numbers."""
    for k in range(0, steps, 2):
        a = b = spread(ZERO)
        at = k * width
        for h in range(count):
            weight = load(weights, h * LANES)
            a = a + spread_item(channels, at + h) * weight
            b = b + spread_item(channels, at + width + h) * weight
        store(block, k * LANES, a)
        store(block, (k + 1) * LANES, b)


@compiled
def collect(block: Any, weights: Any, channels: Any, width: Any, steps: Any) -> None:
    """Add to ``channels[k]`` the sum over the numbers j of row k of ``block[k, j] weights[j]``."""
    for k in range(0, steps, TILE):
        for p in range(0, width, OCTET):
            at = k * width + p
            y0, y1 = load_octet(channels, at), load_octet(channels, at + width)
            y2, y3 = load_octet(channels, at + 2 * width), load_octet(channels, at + 3 * width)
            y4, y5 = load_octet(channels, at + 4 * width), load_octet(channels, at + 5 * width)
            y6, y7 = load_octet(channels, at + 6 * width), load_octet(channels, at + 7 * width)
            for j in range(LANES):
                weight, x = load_octet(weights, j * width + p), k * LANES + j
                y0 = y0 + spread_item_octet(block, x) * weight
                y1 = y1 + spread_item_octet(block, x + LANES) * weight
                y2 = y2 + spread_item_octet(block, x + 2 * LANES) * weight
                y3 = y3 + spread_item_octet(block, x + 3 * LANES) * weight
                y4 = y4 + spread_item_octet(block, x + 4 * LANES) * weight
                y5 = y5 + spread_item_octet(block, x + 5 * LANES) * weight
                y6 = y6 + spread_item_octet(block, x + 6 * LANES) * weight
                y7 = y7 + spread_item_octet(block, x + 7 * LANES) * weight
            store(channels, at, y0)
            store(channels, at + width, y1)
            store(channels, at + 2 * width, y2)
            store(channels, at + 3 * width, y3)
            store(channels, at + 4 * width, y4)
            store(channels, at + 5 * width, y5)
            store(channels, at + 6 * width, y6)
            store(channels, at + 7 * width, y7)


@compiled
def correlate_four(channels: Any, width: Any, count: Any, block: Any, sums: Any, steps: Any) -> None:
    """As :func:`correlate`, four channels at once."""
    for h in range(0, count, 4):
        a, b = load(sums, h * LANES), load(sums, (h + 1) * LANES)
        c, d = load(sums, (h + 2) * LANES), load(sums, (h + 3) * LANES)
        for k in range(steps):
            row, at = load(block, k * LANES), k * width + h
            a = a + spread_item(channels, at) * row
            b = b + spread_item(channels, at + 1) * row
            c = c + spread_item(channels, at + 2) * row
            d = d + spread_item(channels, at + 3) * row
        store(sums, h * LANES, a)
        store(sums, (h + 1) * LANES, b)
        store(sums, (h + 2) * LANES, c)
        store(sums, (h + 3) * LANES, d)


@compiled
def correlate_two(channels: Any, width: Any, count: Any, block: Any, sums: Any, steps: Any) -> None:
    """As :func:`correlate`, two channels at once."""
    for h in range(0, count, 2):
        a, b = load(sums, h * LANES), load(sums, (h + 1) * LANES)
        for k in range(steps):
            row, at = load(block, k * LANES), k * width + h
            a = a + spread_item(channels, at) * row
            b = b + spread_item(channels, at + 1) * row
        store(sums, h * LANES, a)
        store(sums, (h + 1) * LANES, b)


WIDE = torch.backends.cpu.get_cpu_capability() == "AVX512"

project = project_four if WIDE else project_two
"""Row k of ``block`` is the sum over ``count`` channels of ``channels[k, h] weights[h]``."""

correlate = correlate_four if WIDE else correlate_two
"""Add to ``sums[h]``, for ``count`` channels, the sum over rows k of ``channels[k, h] block[k]``."""


@compiled
def advance(block: Any, lam: Any, state: Any, steps: Any) -> None:
    """Turn rows of inputs into states ``x_k = lambda x_{k-1} + v_k``; ``state`` is x before and after."""
    a_re, a_im = load_part(lam, 0), load_part(lam, HALF)
    x_re, x_im = load_part(state, 0), load_part(state, HALF)
    for at in range(0, steps * LANES, LANES):
        v_re, v_im = load_part(block, at), load_part(block, at + HALF)
        # Inputs first: the chain from state to state is two fused operations.
        re = (v_re - a_im * x_im) + a_re * x_re
        im = (v_im + a_im * x_re) + a_re * x_im
        x_re, x_im = re, im
        store(block, at, re)
        store(block, at + HALF, im)
    store(state, 0, x_re)
    store(state, HALF, x_im)


@compiled
def adjoint(block: Any, before: Any, lam: Any, carry: Any, slope: Any, steps: Any) -> None:
    """Turn rows of gradients ``g_k`` into ``w_k = g_k + conj(lambda) w_{k+1}``, last row first.

    Row k of ``before`` is the state before step k. ``carry`` is ``conj(lambda) w`` of the step after the
    last, and becomes that of the first. ``slope`` becomes ``sum_k conj(x_{k-1}) w_k``.
    """
    a_re, a_im = load_part(lam, 0), load_part(lam, HALF)
    c_re, c_im = load_part(carry, 0), load_part(carry, HALF)
    s_re = s_im = load_part(block, 0) - load_part(block, 0)
    for k in range(steps):
        at = (steps - 1 - k) * LANES
        re, im = load_part(block, at) + c_re, load_part(block, at + HALF) + c_im
        x_re, x_im = load_part(before, at), load_part(before, at + HALF)
        s_re = s_re + x_re * re + x_im * im
        s_im = s_im + x_re * im - x_im * re
        c_re = a_re * re + a_im * im
        c_im = a_re * im - a_im * re
        store(block, at, re)
        store(block, at + HALF, im)
    store(carry, 0, c_re)
    store(carry, HALF, c_im)
    store(slope, 0, s_re)
    store(slope, HALF, s_im)
