"""Modal truncation: keep some of the states as they are, ranked by a score per state."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from compressm.lti.projection import project, selection
from compressm.lti.reduction import Reduction
from compressm.lti.search import Request
from compressm.lti.system import DiagonalSystem

ModalScore = Literal["h2", "hinf", "magnitude"]


def modal_scores(system: DiagonalSystem, kind: ModalScore = "h2") -> Tensor:
    """A score per state, float64 ``(N,)``.

    Args:
        system: The system.
        kind: ``"h2"``: the energy ``|c_i|^2 |b_i|^2 / (1 - |l_i|^2)`` of the mode (AIRE-Prune); ``"hinf"``:
            its squared H-infinity norm ``|c_i|^2 |b_i|^2 / (1 - |l_i|)^2`` (LAST); ``"magnitude"``:
            ``|l_i|``.

    Raises:
        ValueError: If ``kind`` is none of these.
    """
    decay = system.log_A.real
    scores: Tensor
    if kind == "magnitude":
        return decay.exp()
    strength = (system.B.norm(dim=1) * system.C.norm(dim=0)) ** 2
    if kind == "h2":
        scores = strength / -torch.expm1(2.0 * decay)
        return scores
    if kind == "hinf":
        scores = strength / torch.expm1(decay).square()
        return scores
    raise ValueError(f"modal_scores: kind must be 'h2', 'hinf' or 'magnitude', got {kind!r}")


def modal_truncation(system: DiagonalSystem, order: int, kind: ModalScore = "h2") -> Reduction:
    """Keep the ``order`` states of the highest score, in their original order; equal scores keep the earlier.

    Returns:
        The reduction, in complex form, without an error bound; ``right`` and ``left`` select.

    Raises:
        TypeError: If ``order`` is not an int.
        ValueError: If ``order`` or ``kind`` is out of range.
    """
    Request(order, None).checked(system.state_dim, system.state_dim)
    ranking = torch.argsort(modal_scores(system, kind), descending=True, stable=True)
    return select_states(system, torch.sort(ranking[:order]).values)


def select_states(system: DiagonalSystem, indices: Tensor) -> Reduction:
    """Keep the states ``indices`` as they are, in that order.

    Returns:
        The reduction, in complex form, without an error bound; ``right`` and ``left`` select.

    Raises:
        ValueError: If there are no indices, one is out of range or there twice.
    """
    order = len(indices)
    wrong = order == 0 or len(set(indices.tolist())) < order
    if wrong or not bool(((indices >= 0) & (indices < system.state_dim)).all()):
        raise ValueError(
            f"select_states: indices must be different states in 0..{system.state_dim - 1}, got "
            f"{indices.tolist()}"
        )
    X, Y = selection(indices, system.state_dim, "complex")
    real_modes = torch.zeros(order, dtype=torch.bool)
    B, C = project(system, X, Y, real_modes, "complex")
    return Reduction(
        original=system,
        system=DiagonalSystem(None, B, C, system.D, log_A=system.log_A[indices]),
        kept=order,
        realization="complex",
        hankel_singular_values=system.hankel_singular_values("complex"),
        error_bound=None,
        right=X,
        left=Y,
        real_modes=real_modes,
    )
