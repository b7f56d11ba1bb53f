"""How the recurrent kernels cut their work: sizes that they and their callers share."""

from compressm.scan.runtime.widths import DOUBLE, HALF, LANES

STEPS = 32
"""Steps of a chunk: a multiple of HALF, few enough for what a chunk needs to stay in a core's caches."""

ITEMS = 16
"""Parts that the work is cut into at least, if there are so many blocks of value channels."""


def width_of(V: int) -> int:
    """Value channels side by side in a vector: as many registers, up to four, as they fill."""
    return next(width for width in (DOUBLE, LANES, HALF) if V % width == 0 or width == HALF)


def blocks_of(V: int) -> int:
    """Vectors that hold V channels."""
    return -(-V // width_of(V))


def chunks_of(L: int) -> int:
    """Chunks that hold L steps."""
    return -(-L // STEPS)


def groups_of(places: int, V: int) -> int:
    """Groups of blocks of value channels whose gradients of queries, keys and decays are summed apart.

    Depends on shapes alone: the number of threads must not change the order of a sum.
    """
    return min(blocks_of(V), -(-ITEMS // places))
