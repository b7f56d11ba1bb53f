"""Memory in bfloat16: widened and rounded as PyTorch does it, every number of it."""

from typing import Any

import numpy as np
import torch
from numba import njit

from compressm.scan.runtime.arrays import copy_row


@njit  # type: ignore[untyped-decorator, unused-ignore]
def copy(source: Any, out: Any) -> None:
    copy_row(source, 0, source.size, out, 0)


def test_every_number_of_half_precision_is_widened_exactly() -> None:
    halves = np.arange(1 << 16).astype(np.uint16)
    for values in (halves, halves[:-5].copy()):  # the second ends in an octet and five single numbers
        wide = np.empty(values.size, np.float32)
        copy(values, wide)
        assert np.array_equal(wide.view(np.uint32), values.astype(np.uint32) << 16)


def test_numbers_are_rounded_to_nearest_even() -> None:
    """Each half with fractions below, at and above the tie behind it; infinities and what is not a number."""
    halves = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    bits = (halves + np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)).reshape(-1)[:-1]
    numbers = bits.astype(np.uint32).view(np.float32)
    out = np.empty(numbers.size, np.uint16)
    copy(numbers, out)
    wanted = torch.from_numpy(numbers).bfloat16()
    found = torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)
    known, normal = ~wanted.isnan(), torch.from_numpy(np.abs(numbers) >= np.finfo(np.float32).tiny)
    assert torch.equal(found[normal].view(torch.int16), wanted[normal].view(torch.int16))
    # Processors that round by themselves take subnormal numbers for zero.
    rest = known & ~normal
    assert torch.equal(found[rest].signbit(), wanted[rest].signbit())
    assert ((found[rest] == wanted[rest]) | (found[rest] == 0)).all()
    assert found[~known].isnan().all()
