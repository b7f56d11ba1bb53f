"""Tiles whose columns are threads, for Triton kernels of recurrences.

A tile has a few steps by a multiple of 32 columns, channels or states, and one warp works on it: lane i holds
all steps of columns i, i + 32, ... in its registers, so that going through time needs neither shuffles nor
shared memory. Taking a row out of a tile, or putting one into it, names registers and costs no instruction.
The layout comes about as loads of neighbouring columns are joined to no vectors, which Triton only does for
pointers it takes for aligned: kernels decline to know (``do_not_specialize_on_alignment``).
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types do not describe them.

import triton
import triton.language as tl


@triton.jit
def row(tile, at: tl.constexpr):
    """One step of a tile. The sum is over bits, of which all others are 0, and falls away."""
    bits: tl.constexpr = tl.int64 if tile.dtype == tl.float64 else tl.int32
    steps = tl.arange(0, tile.shape[0])[:, None]
    chosen = tl.where(steps == at, tile.to(bits, bitcast=True), 0)
    return tl.sum(chosen, axis=0).to(bits).to(tile.dtype, bitcast=True)


@triton.jit
def inside_of(left, known, STEPS: tl.constexpr, EVEN: tl.constexpr):
    """Which of a tile's elements there are, if ``left`` steps are left; with EVEN all steps of all tiles."""
    steps = tl.arange(0, STEPS)[:, None]
    if EVEN:
        return (steps >= 0) & known[None, :]
    return (steps < left) & known[None, :]
