"""Rows that lie equally far apart, which kernels of a CUDA device read where they are."""

from torch import Tensor


def by_rows(x: Tensor) -> Tensor:
    """(batch, L, channels) with channels side by side and every row ``x.stride(1)`` behind the last.

    A slice of the channels of a contiguous tensor is so already; what is not is copied.
    """
    even = x.stride(2) == 1 and x.stride(0) == x.shape[1] * x.stride(1)
    return x if even else x.contiguous()
