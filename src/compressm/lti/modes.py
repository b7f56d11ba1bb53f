"""Eigenmodes of a truncated balanced system: back from a small dense matrix to a diagonal one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from compressm.lti.arithmetic import mixed_product, one_minus_exp, wrapped
from compressm.lti.realization import Realization

Defect = Literal["conditioning", "stability"]

MAX_SENSITIVITY = 1e4
"""Largest eigenvalue condition number ``|x||y| / |y^H x|`` that a reduced system may have.

In balanced coordinates it bounds how much larger than ``sigma_1`` the Hankel norm of a single mode can be,
that is, how far modes cancel each other: ``|b_j| |c_j| / (1 - |l_j|^2) <= |x_j| |y_j| sigma_1``.  Parameters
rounded to float32 (6e-8) then move the output by at most about 6e-4 of the layer's own size.  Beyond it the
diagonal form is useless to a float32 layer, however exact it is here.  Layers of random initialisation stay
below 100 at every size.
"""

_SLOW = -1e-2  # log-modulus above which the distance of an eigenvalue from the unit circle needs care
_ROUNDING = 1e-13  # by how much that care may change an eigenvalue


@dataclass(frozen=True)
class Modes:
    """Diagonal form of ``T_l A T_r``; of each conjugate pair of a real system one mode only.

    Attributes:
        log_values: Logarithms of the eigenvalues, complex128 ``(r,)``; the imaginary part of a real
            eigenvalue of a real system is exactly 0 or pi, of a pair it lies between.
        right: ``X = T_r W``, complex128 ``(n, r)``.
        left: ``Y``, the matching rows of ``W^{-1} T_l``, complex128 ``(r, n)``.
        real: Which modes are real eigenvalues of a real system, bool ``(r,)``.
        sensitivity: Largest eigenvalue condition number; infinite where the eigenvectors are dependent.
    """

    log_values: Tensor
    right: Tensor
    left: Tensor
    real: Tensor
    sensitivity: float

    @property
    def count(self) -> int:
        """Number of modes kept, ``r``."""
        return self.log_values.shape[0]

    def defect(self, max_sensitivity: float) -> Defect | None:
        """Why these modes cannot make a layer, or None."""
        if not bool((self.log_values.real < 0.0).all()):
            return "stability"
        return "conditioning" if self.sensitivity > max_sensitivity else None


def count_modes(matrix: Tensor) -> int:
    """Complex states that ``matrix`` needs once diagonal: a conjugate pair of a real one counts once."""
    if matrix.is_complex():
        return matrix.shape[0]
    return int((torch.linalg.eigvals(matrix).imag >= 0.0).sum())


def eigenmodes(matrix: Tensor, right: Tensor, left: Tensor) -> Modes:
    """Diagonalise ``matrix = T_l A T_r``.

    Args:
        matrix: float64 or complex128 ``(k, k)``.
        right: ``T_r``, ``(n, k)``.
        left: ``T_l``, ``(k, n)``.
    """
    values, vectors = torch.linalg.eig(matrix)
    if matrix.is_complex():
        keep, real = torch.ones_like(values, dtype=torch.bool), torch.zeros_like(values, dtype=torch.bool)
    else:
        keep, real = values.imag >= 0.0, values.imag == 0.0
    inverse, info = torch.linalg.inv_ex(vectors)
    sensitivity = float("inf")
    if int(info) == 0 and bool(torch.isfinite(torch.view_as_real(inverse)).all()):
        sensitivity = float((vectors.norm(dim=0) * inverse.norm(dim=1)).max())
    real = real[keep]
    X, Y = mixed_product(right, vectors[:, keep]), mixed_product(inverse[keep], left)
    X.imag[:, real], Y.imag[real] = 0.0, 0.0  # a real eigenvalue has real vectors, but the inverse rounds
    log_values = torch.complex(torch.log(values.abs()), torch.angle(values))[keep]
    return Modes(log_values=log_values, right=X, left=Y, real=real, sensitivity=sensitivity)


def refined(modes: Modes, log_A: Tensor, realization: Realization) -> Modes:
    """Recompute slow eigenvalues as Rayleigh quotients of the original system, relative to its poles.

    The matrix that was diagonalised is known to rounding only, and with it ``1 - |l|`` to a relative
    ``eps / (1 - |l|)``.  The quotient ``sum_i Y_ji l_i X_ij`` has an error of second order in that of the
    vectors.  Taken as ``l_m (1 + sum_i Y_ji X_ij (l_i / l_m - 1))``, with ``l_m`` the pole that dominates the
    mode, it keeps the digits of ``log l_m``: a slow mode that survives a cut unchanged keeps its decay rate.

    Only a change within rounding is made.  A larger one means that the vectors are inaccurate too, and then
    it is eigenvalues and vectors *together* that belong to a nearby matrix.
    """
    weights, poles = modes.left.mT * modes.right, torch.from_numpy(wrapped(log_A.numpy()))
    if realization == "real":  # in the coordinates (x, conj x)
        right_re, right_im = modes.right.tensor_split(2)
        left_re, left_im = (part.mT for part in modes.left.tensor_split(2, dim=1))
        plain = 0.5 * (left_re - 1j * left_im) * (right_re + 1j * right_im)
        conjugate = 0.5 * (left_re + 1j * left_im) * (right_re - 1j * right_im)
        weights, poles = torch.cat([plain, conjugate]), torch.cat([poles, poles.conj()])
    main = poles[weights.abs().argmax(dim=0)]
    slow = main.real > _SLOW
    steps = poles[:, None] - torch.where(slow, main, 0.0)
    offsets = -torch.from_numpy(one_minus_exp(steps.resolve_conj().numpy()))
    shift = (weights * offsets).sum(dim=0) / weights.sum(dim=0)
    growth = 0.5 * torch.log1p(2.0 * shift.real + shift.abs().square())
    turn = torch.atan2(shift.imag, 1.0 + shift.real)
    values = torch.from_numpy(wrapped((main + torch.complex(growth, turn)).resolve_conj().numpy()))
    angle = torch.where(modes.real, modes.log_values.imag, values.imag)
    better = torch.complex(values.real, angle)
    better = torch.where((better - modes.log_values).abs() <= _ROUNDING, better, modes.log_values)
    return replace(modes, log_values=torch.where(slow, better, modes.log_values))
