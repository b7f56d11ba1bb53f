"""Parameters of a Mamba layer in the order that the recurrence reads them: a Numba kernel.

It is a dozen of PyTorch's operators otherwise, which a step of a small model would wait for.
"""

from typing import Any

import numpy as np
from numba import carray

from compressm.scan.runtime.arrays import rows, scratch
from compressm.scan.runtime.functions import LOG2_E, ROUND, exp2
from compressm.scan.runtime.pointers import compiled
from compressm.scan.runtime.vectors import load, spread, store
from compressm.scan.runtime.widths import LANES

# log(2) in two parts (Cody and Waite): the first times a whole number is exact.
_LN2, _LN2_REST = np.float32(0.693359375), np.float32(-2.12194440e-4)


@compiled
def _exp(x: Any) -> Any:
    """``exp(x)`` to about 2e-7 relative, however large x is."""
    whole = (x * spread(LOG2_E) + spread(ROUND)) - spread(ROUND)
    rest = (x - whole * spread(_LN2)) - whole * spread(_LN2_REST)
    return exp2(rest * spread(LOG2_E)) * exp2(whole)


@compiled
def _turn(source: Any, block: Any, column: Any, room: Any) -> Any:
    for lane in range(LANES):
        room[lane] = source[block * LANES + lane, column]
    return load(room, 0)


def pack_parameters(arguments: Any) -> None:
    """``-exp(A_log)`` in units of log 2, and weights of time steps of low rank.

    Words: worker, workers, blocks of channels, N, rank; A_log (blocks LANES, N), weight (blocks LANES, rank);
    rates (blocks, N, LANES), weight (blocks, rank, LANES).
    """
    words = carray(arguments, (9,))
    blocks, N, rank = words[2], words[3], words[4]
    A_log, weight = rows(words[5], blocks * LANES, N), rows(words[6], blocks * LANES, rank)
    rates, packed, room = (
        rows(words[7], blocks, N * LANES),
        rows(words[8], blocks, rank * LANES),
        scratch(LANES),
    )
    for block in range(blocks):
        for n in range(N):
            store(rates[block], n * LANES, _exp(_turn(A_log, block, n, room)) * spread(-LOG2_E))
        for r in range(rank):
            store(packed[block], r * LANES, _turn(weight, block, r, room))
