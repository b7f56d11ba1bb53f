"""Moments of an input matrix that a layer stores without a complex factor of each mode.

A discretised layer drives mode ``n`` with ``f_n`` times its stored row of B. By the chain rule the gradient
of the stored row is ``conj(f_n)`` times that of the driven one, so moments are divided by the old factors
before a change of basis and multiplied by the new ones after it. Both are folded into one real matrix, whose
squared entries then move second moments.
"""

import torch
from torch import Tensor

from compressm.adapters.basis import BasisChange


def with_input_factors(change: BasisChange, old: Tensor, new: Tensor) -> BasisChange:
    """The change of basis as seen by the stored B.

    Args:
        change: The change of basis of the driven B.
        old: Factors before, complex128 ``(N,)``, none of them zero.
        new: Factors after, complex128 ``(r,)``.
    """
    before, after = 1.0 / old.conj(), new.conj()
    re, im = change.B.tensor_split(2, dim=2)
    turned = torch.cat((re * before.real + im * before.imag, im * before.real - re * before.imag), dim=2)
    first, second = turned
    B = torch.stack(
        (
            after.real[:, None] * first - after.imag[:, None] * second,
            after.imag[:, None] * first + after.real[:, None] * second,
        )
    )
    return BasisChange(B=B, C=change.C)
