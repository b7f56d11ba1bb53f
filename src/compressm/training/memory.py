"""Memory that a training step gave back is kept for the next one, instead of being asked for again.

A step frees its activations at its end. glibc returns large blocks to the system, which hands out pages anew,
cleared, at their first touch: some percent of a small model's step (benchmarks/freed_memory.py), and far more
where several runs share a machine.
"""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST = 2**31 - 1  # bytes; what an int holds
_OLD_LARGEST = 1 << 25  # what glibc before 2.35 allows


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory of any size, from now on and for all it does.

    Memory in use at once stays as it was; what was the most at any time stays with the process. Nothing is
    done where the C library is not glibc.

    Returns:
        Whether the C library took the setting.
    """
    library = _glibc()
    if library is None:
        return False
    taken = library.mallopt(_MMAP_THRESHOLD, _LARGEST) or library.mallopt(_MMAP_THRESHOLD, _OLD_LARGEST)
    return bool(taken) and bool(library.mallopt(_TRIM_THRESHOLD, _LARGEST))


def give_back_freed_memory() -> None:
    """Give to the system what is free, once; nothing is done where the C library is not glibc."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
