"""Balanced singular perturbation: small states are taken as settled, so the DC gain is exact.

The classical formulas (Liu and Anderson 1989) hold for a system whose output sees the state *before* the
update.  Ours sees it after; the same map is ``(A, B, C A, D + C B)`` in the classical form.  That shifted
system is balanced and reduced, and turned back with ``C_r <- C_r A_r^{-1}``, ``D_r <- D_r - C_r A_r^{-1}
B_r``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from compressm.lti.balancing import Balancing, balance
from compressm.lti.modes import Modes, count_modes, eigenmodes
from compressm.lti.projection import project
from compressm.lti.realization import Realization, apply_dynamics
from compressm.lti.reduction import Reduction
from compressm.lti.search import Found, Request, largest_usable
from compressm.lti.system import DiagonalSystem

_SMALLEST_POLE = 1e-6


def singular_perturbation(
    system: DiagonalSystem,
    order: int | None = None,
    realization: Realization = "real",
    *,
    keep: int | None = None,
) -> Reduction:
    """Reduce a system so that its response to a constant input is kept exactly.

    Args:
        system: The system.
        order: Number of complex states to have at most.
        realization: The form that is balanced.
        keep: Or the number of Hankel singular values to keep.

    Returns:
        The reduction.  ``system.D`` is a full matrix ``(P, H)``.  ``hankel_singular_values`` and
        ``error_bound`` are those of the shifted system; the bound holds for the map itself.  ``left`` and
        ``right`` give ``B_r`` and ``C_r`` as always, but ``left @ right`` is not the identity: this is not a
        projection.

    Raises:
        TypeError: Unless exactly one of ``order`` and ``keep`` is given.
        ValueError: If an argument is out of range, or a reduced eigenvalue is so close to zero that the
            output cannot be expressed through the updated state.
    """
    shifted = DiagonalSystem(
        None,
        system.B,
        system.C * system.A,
        system.direct_matrix() + (system.C @ system.B).real,
        log_A=system.log_A,
    )
    balancing = balance(shifted, realization)
    request = Request(order, keep).checked(system.state_dim, len(balancing.hankel_singular_values))
    settled = _Settled(balancing)
    if balancing.rank == 0:
        found = Found(
            0, None, "rank", f"{request} asked for: the system has no memory, one silent state is kept"
        )
    else:
        found = largest_usable(settled, request, balancing.rank, real=realization == "real")
    direct = settled.direct(found.size)
    if found.modes is not None:
        modes = _turned_back(found.modes, system.A, realization)
        B, C = project(system, modes.right, modes.left, modes.real, realization)
        direct = direct - (C @ B).real
        found = replace(found, modes=modes)
    return balancing.reduction(system, found, direct)


class _Settled:
    """The balanced shifted system with its states from ``k`` on at rest: ``x2 = A21 x1 + A22 x2 + B2 u``."""

    def __init__(self, balancing: Balancing) -> None:
        self.max_sensitivity = balancing.max_sensitivity
        self._matrix = balancing.dynamics(balancing.rank)
        self._right, self._left = balancing.bases(balancing.rank)
        self._system = balancing.system
        self._realization = balancing.realization

    def count(self, keep: int) -> int:
        return count_modes(self.dynamics(keep))

    def modes(self, keep: int) -> Modes:
        return eigenmodes(self.dynamics(keep), *self.bases(keep))

    def dynamics(self, keep: int) -> Tensor:
        """``A11 + A12 (I - A22)^{-1} A21``."""
        A = self._matrix
        return A[:keep, :keep] + A[:keep, keep:] @ self._rest(keep, A[keep:, :keep])

    def bases(self, keep: int) -> tuple[Tensor, Tensor]:
        """``T_r1 + T_r2 M A21`` and ``T_l1 + A12 M T_l2`` with ``M = (I - A22)^{-1}``."""
        A, right, left = self._matrix, self._right, self._left
        return (
            right[:, :keep] + right[:, keep:] @ self._rest(keep, A[keep:, :keep]),
            left[:keep] + A[:keep, keep:] @ self._rest(keep, left[keep:]),
        )

    def direct(self, keep: int) -> Tensor:
        """``D + Re(C2 M B2)``, float64 ``(P, H)``."""
        system = self._system
        if self._realization == "complex":
            inputs, outputs = self._left @ system.B, system.C @ self._right
        else:
            inputs = self._left @ torch.cat([system.B.real, system.B.imag])
            outputs = torch.cat([system.C.real, -system.C.imag], dim=1) @ self._right
        passed = outputs[:, keep:] @ self._rest(keep, inputs[keep:])
        return system.direct_matrix() + (passed.real if passed.is_complex() else passed)

    def _rest(self, keep: int, columns: Tensor) -> Tensor:
        """``(I - A22)^{-1} columns``."""
        inner = self._matrix[keep:, keep:]
        identity = torch.eye(inner.shape[0], dtype=inner.dtype)
        settled: Tensor = torch.linalg.solve(identity - inner, columns)
        return settled


def _turned_back(modes: Modes, A: Tensor, realization: Realization) -> Modes:
    """The modes for an output that sees the updated state: ``X <- A X Lambda_r^{-1}``."""
    smallest = math.exp(float(modes.log_values.real.min()))
    if smallest < _SMALLEST_POLE:
        raise ValueError(
            f"singular_perturbation: a reduced eigenvalue has modulus {smallest:.2e} < {_SMALLEST_POLE:g}: "
            "the reduced output cannot be written in terms of the updated state; choose another size or use "
            "balanced_truncation"
        )
    real, imaginary = (apply_dynamics(A, part, realization) for part in (modes.right.real, modes.right.imag))
    return replace(modes, right=(real + 1j * imaginary) / torch.exp(modes.log_values))
