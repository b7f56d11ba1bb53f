"""Packing of weights: a Numba kernel."""

from typing import Any

from numba import carray

from compressm.scan.runtime.pointers import float32_pointer, worker
from compressm.scan.runtime.products import pack


def pack_weights(arguments: Any) -> None:
    """Kernel. Words: worker, workers, items, 80 bytes of room for each worker, then six of each item.

    Those are an address, rows and columns, whether they are stored transposed, rows of the products, and
    where to.
    """
    words = carray(arguments, (64,))
    number, workers = worker(words)
    room = words[3] + 80 * number
    ones = carray(float32_pointer(room + 64), (3,))
    ones[0], ones[2] = 1, 0
    for item in range(number, words[2], workers):
        at = 4 + 6 * item
        inner, columns, turned = words[at + 1], words[at + 2], words[at + 3]
        width = inner if turned else columns
        pack(room, words[at], width, turned, words[at + 4], columns, inner, words[at + 5])
