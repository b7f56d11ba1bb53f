"""The result of a reduction: the smaller system, what is known about its error, and the maps that made it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from compressm.lti.realization import Realization
from compressm.lti.system import DiagonalSystem

LimitedBy = Literal["rank", "conditioning", "stability"]


class ReductionWarning(UserWarning):
    """A reduction kept fewer states than it was asked for."""


class UnmeasuredReduction(ABC):
    """A reduction of a layer that varies with its inputs: there is no error system whose norm is known."""

    @property
    @abstractmethod
    def order(self) -> int:
        """States that are left."""

    @property
    def kept(self) -> int:
        """The same: every state has one value that ranks it."""
        return self.order

    @property
    def error(self) -> None:
        """Not known."""
        return None

    @property
    def error_bound(self) -> None:
        """None holds."""
        return None


@dataclass(frozen=True, eq=False)
class Reduction:
    """A reduced system with its guarantee and its maps.

    In complex form ``B_r = Y B`` and ``C_r = C X``.  In real form ``B_r = Y [Re B; Im B]`` and
    ``C_r = s [Re C, -Im C] X`` with ``s = 2`` for a conjugate pair, of which one state is kept, and ``s = 1``
    for a real eigenvalue.

    Attributes:
        original: The system that was reduced.
        system: The reduced system.
        kept: Number of Hankel singular values kept (balanced methods) or of states (modal truncation).
        realization: The form that was balanced.
        hankel_singular_values: All of the original's, descending, float64 (singular perturbation: of the
            shifted system).
        error_bound: Twice the sum of the values left out, an upper bound of ``error``.  None where none
            holds.
        right: ``X``, complex128.  Complex form ``(N, order)``; real form ``(2N, order)``, in ``(Re x, Im
            x)``.
        left: ``Y``, complex128, ``(order, N)`` or ``(order, 2N)``.
        real_modes: Real form: which eigenvalues stand for one real state, bool ``(order,)``.  Complex form:
            all False.
        limited_by: Why fewer states than asked for were kept; None if the request was met.
        note: The same in words; empty if there is nothing to say.
    """

    original: DiagonalSystem
    system: DiagonalSystem
    kept: int
    realization: Realization
    hankel_singular_values: Tensor
    error_bound: float | None
    right: Tensor
    left: Tensor
    real_modes: Tensor
    limited_by: LimitedBy | None = None
    note: str = ""

    @property
    def order(self) -> int:
        """Number of complex states kept."""
        return self.system.state_dim

    @cached_property
    def error(self) -> float:
        """H-infinity norm of the unweighted real error system, computed when first asked for."""
        return (self.original - self.system).hinf_norm()

    def rescaled(self, scale: Tensor) -> Reduction:
        """The same system with the free scale of each eigenvector chosen anew.

        Args:
            scale: Shape ``(order,)``, real or complex, nonzero.  ``B_r`` and ``left`` are divided by it,
                ``C_r`` and ``right`` multiplied.  A real eigenvalue of the real form needs a real scale.

        Raises:
            ValueError: On a wrong shape, a zero, a value that is not finite, or a complex scale for a real
                mode.
        """
        scale = scale.detach().cpu().to(torch.complex128)
        if scale.shape != (self.order,):
            raise ValueError(f"rescaled: scale must have shape ({self.order},), got {tuple(scale.shape)}")
        if not bool(torch.isfinite(torch.view_as_real(scale)).all()) or bool((scale == 0).any()):
            raise ValueError(f"rescaled: scale must be finite and nonzero everywhere, got {scale.tolist()}")
        if bool((scale.imag[self.real_modes] != 0.0).any()):
            raise ValueError("rescaled: the scale of a real eigenvalue of the real form must be real")
        system = self.system
        B, C = system.B / scale[:, None], system.C * scale
        scaled = replace(
            self,
            system=DiagonalSystem(None, B, C, system.D, log_A=system.log_A),
            right=self.right * scale,
            left=self.left / scale[:, None],
        )
        if "error" in self.__dict__:  # computed already, and the map is the same
            scaled.__dict__["error"] = self.error
        return scaled
