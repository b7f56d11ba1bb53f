"""The precision that recurrences keep where autocast runs everything else in half of it."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself, or in float32 if it is of half precision, which no recurrence survives."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
