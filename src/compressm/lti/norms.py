"""Norms of a system: energy of its impulse response, and largest gain over frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from compressm.lti.gramians import controllability_factor
from compressm.lti.hinf import hinf_norm as hinf_norm

if TYPE_CHECKING:
    from compressm.lti.system import DiagonalSystem


def h2_norm(system: DiagonalSystem) -> float:
    """``sqrt(sum_k |h_k|_F^2)`` of the real impulse response ``h_0 = Re(C B) + D``, ``h_k = Re(C A^k B)``.

    Summed as ``|h_0|^2 + |Re(C A R)|^2`` with a real factor ``R`` of the controllability Gramian: squares
    only.
    """
    R = torch.complex(*controllability_factor(system, "real").tensor_split(2))
    tail = ((system.C * system.A) @ R).real
    first = (system.C @ system.B).real + system.direct_matrix()
    return float(torch.hypot(tail.norm(), first.norm()))
