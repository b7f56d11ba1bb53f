"""Functions of vectors: exponential, softplus and its slope. Numba code."""

from typing import Any

import numpy as np

from compressm.scan.runtime.arrays import ZERO
from compressm.scan.runtime.pointers import compiled
from compressm.scan.runtime.vectors import add_exponent, below, spread

ONE, TWO = np.float32(1.0), np.float32(2.0)
LOG2_E = np.float32(1.4426950408889634)
TINY = np.float32(1e-30)

# 2^r = 1 + r (P1 + r (P2 + ...)) on |r| <= 1/2: the relative error is at most 9.2e-8, and 2^0 is exactly 1.
# Found by iterated least squares (Lawson), which approaches the minimax polynomial.
P1, P2, P3, P4, P5 = (
    np.float32(value) for value in (0.69314700, 0.24022242, 0.05550734, 0.00967151, 0.00132647)
)
ROUND = np.float32(3 << 22)  # adding it leaves the nearest integer in the low bits of the sum
LOWEST, INFINITE = np.float32(-64.0), np.float32(128.0)

# log(1 + w) = 2 artanh(s), s = w / (2 + w) <= 1/3, as a series: the first term left out is below 1e-8.
L3, L5, L7, L9, L11, L13 = (np.float32(2 / n) for n in (3, 5, 7, 9, 11, 13))


@compiled
def exp2(x: Any) -> Any:
    """``2^x`` to about 1e-7 relative; exactly 0 below -64, infinite from 128 on.

    Where decays are that strong nothing of a state survives, but its product with 2^-100 would be a
    subnormal number, on which processors are a hundred times slower.
    """
    # At 128 the sum of exponents is that of infinity, and the fraction is 0.
    x = below(spread(INFINITE), x, spread(INFINITE), x)
    rounded = x + spread(ROUND)
    r = x - (rounded - spread(ROUND))
    series = spread(P4) + r * spread(P5)
    series = spread(P3) + r * series
    series = spread(P2) + r * series
    series = spread(P1) + r * series
    power = add_exponent(spread(ONE) + r * series, rounded)
    return below(x, spread(LOWEST), spread(ZERO), power)


@compiled
def faded(x: Any) -> Any:
    """``exp(-|x|)``, which softplus and its slope share."""
    zero = spread(ZERO)
    return exp2(below(x, zero, x, zero - x) * spread(LOG2_E))


@compiled
def softplus_from(x: Any, w: Any) -> Any:
    """``log(1 + exp(x))``, given ``w = faded(x)``."""
    s = w / (spread(TWO) + w)
    q = s * s
    series = spread(L9) + q * (spread(L11) + q * spread(L13))
    series = spread(TWO) + q * (spread(L3) + q * (spread(L5) + q * (spread(L7) + q * series)))
    return below(x, spread(ZERO), spread(ZERO), x) + s * series


@compiled
def sigmoid_from(x: Any, w: Any) -> Any:
    """``1 / (1 + exp(-x))``, the slope of softplus, given ``w = faded(x)``."""
    return below(x, spread(ZERO), w, spread(ONE)) / (spread(ONE) + w)


@compiled
def softplus(x: Any) -> Any:
    """``log(1 + exp(x))``."""
    return softplus_from(x, faded(x))


@compiled
def sigmoid(x: Any) -> Any:
    """``1 / (1 + exp(-x))``."""
    return sigmoid_from(x, faded(x))


@compiled
def flush(x: Any) -> Any:
    """Zero where ``|x|`` is tiny: states that fade must not linger as slow subnormal numbers."""
    zero, tiny = spread(ZERO), spread(TINY)
    return below(x, tiny, below(zero - tiny, x, zero, x), x)
