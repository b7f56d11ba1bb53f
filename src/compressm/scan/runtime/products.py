"""Matrix products inside kernels, by PyTorch's own BLAS. Numba code."""

from typing import Any

from numba import carray, types

from compressm.scan.runtime.blas import GEMM_SYMBOLS
from compressm.scan.runtime.pointers import compiled, int64_pointer

ROOM = 80
"""Bytes that :func:`multiply` needs for the arguments of BLAS."""

_SIGNATURE = types.void(*[types.int64] * 13)
_sgemm = types.ExternalFunction(GEMM_SYMBOLS["sgemm_"], _SIGNATURE)
_dgemm = types.ExternalFunction(GEMM_SYMBOLS["dgemm_"], _SIGNATURE)
_pack = types.ExternalFunction(GEMM_SYMBOLS["sgemm_pack_"], types.void(*[types.int64] * 9))
_compute = types.ExternalFunction(GEMM_SYMBOLS["sgemm_compute_"], types.void(*[types.int64] * 12))
_hgemm = types.ExternalFunction(GEMM_SYMBOLS["gemm_bf16bf16f32_"], _SIGNATURE)


@compiled
def multiply(
    size: Any, room: Any, a: Any, a_width: Any, a_turned: Any, b: Any, b_width: Any, b_turned: Any, c: Any,
    c_width: Any, rows: Any, columns: Any, inner: Any, accumulate: Any,
) -> None:  # fmt: skip
    """``c = a b`` or ``c += a b``, c (rows, columns); an operand may be stored transposed.

    Operands are addresses of numbers of ``size`` bytes, row by row, rows ``width`` numbers apart: float64,
    float32, or bfloat16 with a ``c`` of float32. ``room`` is an address, too: ROOM bytes for the arguments,
    of which bytes 64 and 72 begin the numbers 1 and 0. BLAS counts by columns: to it these are the
    transposes, so the operands change places. Sizes are 64-bit words, which a library of 32-bit integers
    reads the same on little-endian machines.
    """
    sizes = carray(int64_pointer(room), (8,))
    sizes[0], sizes[1], sizes[2] = columns, rows, inner
    sizes[3], sizes[4], sizes[5] = b_width, a_width, c_width
    sizes[6], sizes[7] = 84 if b_turned else 78, 84 if a_turned else 78  # the letters "T" or "N"
    one, beta = room + 64, room + 64 if accumulate else room + 72
    letters = room + 48
    if size == 4:
        _sgemm(letters, letters + 8, room, room + 8, room + 16, one, b, room + 24, a, room + 32, beta, c,
               room + 40)  # fmt: skip
    elif size == 8:
        _dgemm(letters, letters + 8, room, room + 8, room + 16, one, b, room + 24, a, room + 32, beta, c,
               room + 40)  # fmt: skip
    else:
        _hgemm(letters, letters + 8, room, room + 8, room + 16, one, b, room + 24, a, room + 32, beta, c,
               room + 40)  # fmt: skip


@compiled
def pack(
    room: Any, b: Any, b_width: Any, b_turned: Any, rows: Any, columns: Any, inner: Any, to: Any
) -> None:
    """Lay weights out as products read them, for :func:`multiply_packed` with just so many rows.

    Every product does that by itself, which is a tenth of the time of one with a few hundred rows.
    """
    sizes = carray(int64_pointer(room), (8,))
    sizes[0], sizes[1], sizes[2], sizes[3] = columns, rows, inner, b_width
    sizes[6], sizes[7] = 65, 84 if b_turned else 78  # the letters "A", and "T" or "N"
    letters = room + 48
    _pack(letters, letters + 8, room, room + 8, room + 16, room + 64, b, room + 24, to)


@compiled
def multiply_packed(
    room: Any, a: Any, a_width: Any, packed: Any, c: Any, c_width: Any, rows: Any, columns: Any, inner: Any,
    accumulate: Any,
) -> None:  # fmt: skip
    """``c = a b`` or ``c += a b`` in float32, as :func:`multiply`, with a packed b."""
    sizes = carray(int64_pointer(room), (8,))
    sizes[0], sizes[1], sizes[2] = columns, rows, inner
    sizes[3], sizes[4], sizes[5] = columns, a_width, c_width
    sizes[6], sizes[7] = 80, 78  # the letters "P" and "N"
    beta, letters = room + 64 if accumulate else room + 72, room + 48
    _compute(letters, letters + 8, room, room + 8, room + 16, packed, room + 24, a, room + 32, beta, c,
             room + 40)  # fmt: skip
