"""How the kernels cut their work: sizes that they and their callers share."""

from compressm.scan.selective.layout import blocks_of

STEPS = 32
"""Steps of a chunk: few enough for its rows to stay in a core's caches."""

ITEMS = 16
"""Parts that the work is cut into at least, if there are so many chunks."""


def groups_of(batch: int, L: int) -> int:
    """Runs of chunks of a sequence whose gradients of weights are summed apart.

    Depends on shapes alone: the number of threads must not change the order of a sum.
    """
    return min(-(-L // STEPS), -(-ITEMS // batch))


__all__ = ["ITEMS", "STEPS", "blocks_of", "groups_of"]
