"""Arrays for kernels: of float32 at an address, or memory of their own. Numba code."""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.runtime.pointers import compiled, float32_pointer
from compressm.scan.runtime.vectors import item, load, load_octet, put, spread, store
from compressm.scan.runtime.widths import LANES, OCTET

ZERO = np.float32(0.0)
_LINE = 64  # bytes: a vector that straddles two cache lines costs two accesses


@compiled
def array(address: Any, size: Any) -> Any:
    """The float32 array of ``size`` elements at an address."""
    return carray(float32_pointer(address), (size,))


@compiled
def rows(address: Any, count: Any, size: Any) -> Any:
    """The float32 matrix (count, size) at an address."""
    return carray(float32_pointer(address), (count, size))


@compiled
def scratch(size: Any) -> Any:
    """Zeroed memory for ``size`` floats, on cache lines."""
    buffer = np.zeros(size + _LINE // 4, np.float32)
    start = (_LINE - buffer.ctypes.data % _LINE) % _LINE // 4
    return buffer[start : start + size]


@compiled
def zero(numbers: Any) -> None:
    """Make all numbers of an array zero, whole vectors of them at once."""
    whole = numbers.size // LANES * LANES
    for i in range(0, whole, LANES):
        store(numbers, i, spread(ZERO))
    for i in range(whole, numbers.size):
        numbers[i] = ZERO


@compiled
def copy_row(source: Any, start: Any, channels: Any, out: Any, at: Any) -> None:
    """Copy ``channels`` neighbours from ``start`` on to ``at``; both may hold float32 or bfloat16."""
    vectors, octets = channels // LANES * LANES, channels // OCTET * OCTET
    for c in range(0, vectors, LANES):
        store(out, at + c, load(source, start + c))
    for c in range(vectors, octets, OCTET):
        store(out, at + c, load_octet(source, start + c))
    for c in range(octets, channels):
        put(out, at + c, item(source, start + c))
