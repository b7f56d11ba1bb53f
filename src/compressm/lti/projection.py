"""From maps to systems: ``B_r``, ``C_r`` and the free scale of each mode."""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.lti.arithmetic import mixed_product
from compressm.lti.modes import Modes
from compressm.lti.realization import Realization
from compressm.lti.system import DiagonalSystem


def project(
    system: DiagonalSystem, X: Tensor, Y: Tensor, real_modes: Tensor, realization: Realization
) -> tuple[Tensor, Tensor]:
    """``B_r`` ``(r, H)`` and ``C_r`` ``(P, r)`` as written at :class:`compressm.lti.Reduction`."""
    if realization == "complex":
        return Y @ system.B, system.C @ X
    inputs = torch.cat([system.B.real, system.B.imag])
    outputs = torch.cat([system.C.real, -system.C.imag], dim=1)
    return mixed_product(Y, inputs), mixed_product(outputs, X) * torch.where(real_modes, 1.0, 2.0)


def diagonal_system(
    original: DiagonalSystem, modes: Modes, realization: Realization, direct: Tensor | None
) -> tuple[DiagonalSystem, Tensor, Tensor]:
    """Project ``original`` on the modes, each scaled so that its row of B and column of C have equal norms.

    Returns:
        The diagonal system with direct term ``direct``, and the maps ``X`` and ``Y`` as scaled.
    """
    B, C = project(original, modes.right, modes.left, modes.real, realization)
    row, column = B.norm(dim=1), C.norm(dim=0)
    alive = (row > 0.0) & (column > 0.0)
    scale = torch.where(alive, torch.sqrt(row) / torch.sqrt(column), torch.ones_like(row))
    system = DiagonalSystem(None, B / scale[:, None], C * scale, direct, log_A=modes.log_values)
    return system, modes.right * scale, modes.left / scale[:, None]


def selection(indices: Tensor, states: int, realization: Realization) -> tuple[Tensor, Tensor]:
    """Maps ``X`` and ``Y`` that keep the original states ``indices`` as they are."""
    Y = torch.nn.functional.one_hot(indices, states).to(torch.complex128)
    if realization == "complex":
        return Y.mT.clone(), Y
    return 0.5 * torch.cat([Y, -1j * Y], dim=1).mT, torch.cat([Y, 1j * Y], dim=1)


def silent_state(
    original: DiagonalSystem, realization: Realization, direct: Tensor | None
) -> tuple[DiagonalSystem, Tensor, Tensor]:
    """One original state, because a layer needs one, that leaves the output at ``direct u``.

    The state taken is one that passes nothing on anyway, if there is one; else its input is cut.
    """
    passed = original.B.norm(dim=1) * original.C.norm(dim=0)
    index = torch.argmin(passed)[None]
    X, Y = selection(index, original.state_dim, realization)
    if float(passed[index]) > 0.0:
        Y = torch.zeros_like(Y)
    B, C = project(original, X, Y, torch.zeros(1, dtype=torch.bool), realization)
    return DiagonalSystem(None, B, C, direct, log_A=original.log_A[index]), X, Y
