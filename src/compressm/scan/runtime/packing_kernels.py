"""Packing of weights: a Numba kernel."""

from typing import Any

from numba import carray

from compressm.scan.runtime.pointers import compiled, float32_pointer, worker
from compressm.scan.runtime.products import pack


@compiled
def _pack_mine(words: Any) -> None:
    number, workers = worker(words)
    room = words[3] + 80 * number
    ones = carray(float32_pointer(room + 64), (3,))
    ones[0], ones[2] = 1, 0
    for item in range(number, words[2], workers):
        at = 4 + 6 * item
        inner, columns, turned = words[at + 1], words[at + 2], words[at + 3]
        pack(
            room,
            words[at],
            inner if turned else columns,
            turned,
            words[at + 4],
            columns,
            inner,
            words[at + 5],
        )


def pack_weights(arguments: Any) -> None:
    """Kernel. Words: worker, workers, items, 80 bytes of room for each worker, then six of each item.

    Those are an address, rows and columns, whether they are stored transposed, rows of the products, and
    where to.
    """
    _pack_mine(carray(arguments, (64,)))
