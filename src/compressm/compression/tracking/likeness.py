"""Which balanced state of a layer today is which one of the layer at an earlier check.

A Hankel singular value belongs to no mode: balancing mixes all of them. What it belongs to is a balanced
state: a functional ``T_l,i`` that reads it off the modes and a direction ``T_r,i`` in which it acts on them,
and through the layer's dynamics a pair of orthonormal signals, the past input ``v_i`` that excites it most
and the future output ``u_i`` that it leaves (the Schmidt pairs of the Hankel operator; Glover 1984).

:func:`mode_likeness` compares states by their modes. While a layer trains, each mode keeps its index and
moves; an earlier state is taken to move with its modes. :func:`signal_likeness` compares the signals
themselves, so it needs no common coordinates and works across a cut, but it sees every small shift of a slow
mode: signals that hardly decay are soon out of phase. In training an LRU of 64 states on sequential MNIST,
between checks 2 % of the steps apart, the first is 0.4 to 0.7 in the mean (states of nearly equal value mix),
the second 0.15 to 0.6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.compression.tracking.change import cross_gramians
from compressm.lti import Balancing

# Below this share of the largest HSV the directions of a state are rounding.
_RESOLVED = 1e-7


def likeness(old: Balancing, new: Balancing, most: int) -> Tensor | None:
    """By modes while the layer has its size, by signals across a cut; the leading ``most`` states of each.

    Returns:
        Float64 ``(n, n')`` in ``[0, 1]``; 1 for the same state. None across a cut of a layer balanced with
        other Gramians than its own: its signals are not known here.

    Raises:
        ValueError: If the two have other inputs, outputs or forms.
    """
    if old.realization != new.realization:
        raise ValueError(f"a state in {old.realization} form is none in {new.realization} form")
    if old.system.state_dim == new.system.state_dim:
        return mode_likeness(old, new, most)
    return signal_likeness(old, new, most) if old.guaranteed and new.guaranteed else None


def mode_likeness(old: Balancing, new: Balancing, most: int) -> Tensor:
    """``|cos(O' T_r,i, u_j') cos(C'^H T_l,i^H, v_j')|``: the old states under today's dynamics.

    ``C'`` and ``O'`` are today's maps from past inputs to the state and from the state to future outputs.
    """
    rows, columns = resolved(old, most), resolved(new, most)
    # Coefficients in today's signals, which are orthonormal: the sums of squares run over all of them.
    future = _unit(new.left @ old.right[:, :rows], dim=0)[:columns]
    past = _unit(old.left[:rows] @ new.right, dim=1)[:, :columns]
    return (future.mT.abs() * past.abs()).clamp(max=1.0)


def signal_likeness(old: Balancing, new: Balancing, most: int) -> Tensor:
    """``|<u_i, u_j'> <v_i, v_j'>|``, from cross Gramians in closed form."""
    rows, columns = resolved(old, most), resolved(new, most)
    P, Q = cross_gramians(old.system, new.system, old.realization)
    past = old.left[:rows] @ P @ new.left[:columns].mH
    future = old.right[:, :rows].mH @ Q @ new.right[:, :columns]
    scale = old.hankel_singular_values[:rows, None] * new.hankel_singular_values[:columns]
    return (past.abs() * future.abs() / scale**2).clamp(max=1.0)


def resolved(balancing: Balancing, most: int) -> int:
    """How many leading states, at most ``most``, are more than rounding."""
    values = balancing.hankel_singular_values
    return min(most, balancing.rank, int((values > _RESOLVED * values[0]).sum()))


def _unit(matrix: Tensor, dim: int) -> Tensor:
    norms = matrix.norm(dim=dim, keepdim=True)
    return matrix / torch.where(norms > 0, norms, torch.ones_like(norms))
