"""Queries and keys of length one."""

import torch
from torch import Tensor

EPS = 1e-6
"""Added to squared lengths: short vectors are not blown up."""


def unit_rows(x: Tensor) -> Tensor:
    """Vectors along the last dimension scaled to length one."""
    return x * torch.rsqrt((x * x).sum(dim=-1, keepdim=True) + EPS)
