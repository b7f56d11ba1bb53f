"""Weights of the products as kernels of the recurrence read them, and gradients of B and C: Numba kernels."""

from typing import Any

from numba import carray

from compressm.scan.runtime.pointers import compiled, float32_pointer, float64_pointer, worker


@compiled
def _pack(arguments: Any, pointer: Any) -> None:
    words = carray(arguments, (6,))
    number, workers = worker(words)
    P, N = words[2], words[3]
    C, out = carray(pointer(words[4]), (2, P, N)), carray(pointer(words[5]), (P, 2, N))
    for row in range(P * number // workers, P * (number + 1) // workers):
        for n in range(N):
            out[row, 0, n] = C[0, row, n]
        for n in range(N):
            out[row, 1, n] = -C[1, row, n]


@compiled
def _gather(arguments: Any, pointer: Any) -> None:
    words = carray(arguments, (10,))
    number, workers = worker(words)
    shares, H, P, N = words[2], words[3], words[4], words[5]
    into, out_of = carray(pointer(words[6]), (shares, 2 * N, H)), carray(pointer(words[7]), (shares, P, 2, N))
    B, C = carray(pointer(words[8]), (2 * N, H)), carray(pointer(words[9]), (2, P, N))
    for row in range(2 * N * number // workers, 2 * N * (number + 1) // workers):
        _add_up(into[:, row], B[row])
    for row in range(P * number // workers, P * (number + 1) // workers):
        _add_up(out_of[:, row, 0], C[0, row])
        _add_up(out_of[:, row, 1], C[1, row])
        for n in range(N):
            C[1, row, n] = -C[1, row, n]


@compiled
def _add_up(parts: Any, total: Any) -> None:
    first = parts[0]
    for j in range(total.size):
        total[j] = first[j]
    for share in range(1, len(parts)):
        part = parts[share]
        for j in range(total.size):
            total[j] += part[j]


def pack_float32(arguments: Any) -> None:
    """Kernel. Rows ``[Re C, -Im C]``, which states ``[Re x, Im x]`` are multiplied with.

    Words: worker, workers, P, N; C (2, P, N), rows (P, 2 N).
    """
    _pack(arguments, float32_pointer)


def pack_float64(arguments: Any) -> None:
    """Kernel. As :func:`pack_float32`."""
    _pack(arguments, float64_pointer)


def gather_float32(arguments: Any) -> None:
    """Kernel. Gradients of B and C, from shares of those of what products read.

    Words: worker, workers, shares, H, P, N; shares (shares, 2 N, H) and (shares, P, 2 N); gradients of B
    (2, N, H) and C (2, P, N).
    """
    _gather(arguments, float32_pointer)


def gather_float64(arguments: Any) -> None:
    """Kernel. As :func:`gather_float32`."""
    _gather(arguments, float64_pointer)
