"""The two forms in which a layer can be balanced."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Realization = Literal["real", "complex"]
"""``"real"``: the conjugate-closed system behind ``u -> Re(C x)``, ``2N`` real states, the map a network
sees. ``"complex"``: ``u -> C x`` with its ``N`` complex states, as published (arXiv 2510.02823)."""


def check_realization(realization: str) -> None:
    """Raise ``ValueError`` unless ``realization`` is one of the two."""
    if realization not in ("real", "complex"):
        raise ValueError(f"realization must be 'real' or 'complex', got {realization!r}")


def apply_dynamics(A: Tensor, basis: Tensor, realization: Realization) -> Tensor:
    """The state matrix, ``diag(A)`` or ``[[Re A, -Im A], [Im A, Re A]]``, times ``basis``."""
    if realization == "complex":
        return A[:, None] * basis
    moved = A[:, None] * torch.complex(*basis.tensor_split(2))
    return torch.cat([moved.real, moved.imag])
