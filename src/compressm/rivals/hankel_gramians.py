"""Gramians of a diagonal system and their gradients, laid out for a loss that is evaluated at every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.lti.arithmetic import complex_exp, wrapped


@dataclass(frozen=True)
class Resolvents:
    """Quotients that the eigenvalues ``l`` give every Gramian, each to full relative accuracy.

    Attributes:
        values: ``l``, ``(N,)``.
        across: ``1 / (1 - l_i conj(l_j))``, ``(N, N)``, Hermitian.
        along: ``1 / (1 - l_i l_j)``, ``(N, N)``, symmetric; None in complex form, which does not need it.
    """

    values: Tensor
    across: Tensor
    along: Tensor | None

    @classmethod
    def of(cls, log_A: Tensor, *, real: bool) -> Resolvents:
        """Evaluate them from ``log_A``, ``(N,)`` and complex128, without a gradient."""
        logs = wrapped(log_A.numpy())
        rates, angles = torch.from_numpy(logs.real.copy()), torch.from_numpy(logs.imag.copy())
        exponents = rates[:, None] + rates
        return cls(
            values=torch.from_numpy(complex_exp(log_A.numpy())),
            across=_one_minus_exp(exponents, angles[:, None] - angles).reciprocal(),
            along=_one_minus_exp(exponents, angles[:, None] + angles).reciprocal() if real else None,
        )

    def conj(self) -> Resolvents:
        """The same of the conjugate eigenvalues."""
        along = None if self.along is None else self.along.conj()
        return Resolvents(self.values.conj(), self.across.conj(), along)


@dataclass(frozen=True)
class Gramian:
    """``P`` with ``P = A P A^H + B B^H``, and the way back from it to the eigenvalues and to ``B``.

    Attributes:
        resolvents: Of the system's eigenvalues.
        rows: ``B``, ``(N, H)``, complex128; for the observability Gramian pass the conjugate eigenvalues'
            resolvents and ``C^H``.
        hermitian: ``E[x x^H]``, ``(N, N)``: the Gramian of the complex form.
        symmetric: ``E[x x^T]``, ``(N, N)``; None in complex form.
    """

    resolvents: Resolvents
    rows: Tensor
    hermitian: Tensor
    symmetric: Tensor | None

    @classmethod
    def of(cls, resolvents: Resolvents, rows: Tensor) -> Gramian:
        """The Gramian of a system in the form that the resolvents were made for."""
        symmetric = None if resolvents.along is None else rows @ rows.mT * resolvents.along
        return cls(resolvents, rows, rows @ rows.mH * resolvents.across, symmetric)

    def matrix(self) -> Tensor:
        """``P``: complex ``(N, N)``, or in real form the real ``(2N, 2N)`` one of ``(Re x, Im x)``."""
        if self.symmetric is None:
            return self.hermitian
        return in_real_coordinates(self.hermitian, self.symmetric)

    def gradient(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of ``Re tr(weight P)`` by ``log l``, ``(N,)``, and by the rows, ``(N, H)``.

        Complex gradients are ``d/dRe + i d/dIm``, as autograd has them.

        Args:
            weight: Hermitian, of the shape of :meth:`matrix`.
        """
        values, rows, known = self.resolvents.values, self.rows, self.resolvents
        if self.symmetric is None or known.along is None:
            return _quotient_gradient(weight, known.across, self.hermitian, values, values, rows)
        (w11, w12), (w21, w22) = (half.tensor_split(2, dim=1) for half in weight.tensor_split(2))
        on_hermitian = torch.complex(w11 + w22, w21 - w12).mul_(0.5)
        on_symmetric = torch.complex(w11 - w22, w21 + w12).mul_(0.5)
        log_1, rows_1 = _quotient_gradient(on_hermitian, known.across, self.hermitian, values, values, rows)
        log_2, rows_2 = _quotient_gradient(
            on_symmetric, known.along, self.symmetric, values, values.conj(), rows.conj()
        )
        return log_1 + log_2, rows_1 + rows_2


def in_real_coordinates(hermitian: Tensor, symmetric: Tensor) -> Tensor:
    """The covariance of ``(Re x, Im x)`` from ``E[x x^H]`` and ``E[x x^T]``."""
    total, difference = 0.5 * (hermitian + symmetric), 0.5 * (symmetric - hermitian)
    top = torch.cat((total.real, difference.imag), dim=1)
    return torch.cat((top, torch.cat((total.imag, -difference.real), dim=1)))


def _one_minus_exp(exponent: Tensor, angle: Tensor) -> Tensor:
    """``1 - exp(exponent + i angle)`` as :func:`compressm.lti.arithmetic.one_minus_exp` has it.

    With PyTorch's vectorised functions, which take half the time: these matrices are new at every step.
    """
    half = 0.5 * angle
    sine = half.sin()
    turned = exponent.exp().mul_(sine).mul_(2.0)
    real = sine.mul_(turned).sub_(exponent.expm1())
    return torch.complex(real, half.cos_().mul_(turned).neg_())


def _quotient_gradient(
    weight: Tensor, quotients: Tensor, products: Tensor, values: Tensor, partners: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Through ``X_ij = (b_i . c_j) / (1 - l_i m_j)``, by ``log l`` and ``b``.

    ``m``, ``c`` are ``l``, ``b`` themselves or their conjugates, which contribute as much again: hence the
    factor 2.  ``quotients`` are the ``1 / (1 - l_i m_j)``, ``products`` is ``X``, and ``partners`` and
    ``rows`` are the conjugates of ``m`` and ``c``.
    """
    divided = weight * quotients.conj()
    by_rows = 2.0 * (divided @ rows)
    slopes = divided.mul_(products.conj())
    return 2.0 * values.conj() * (slopes @ partners), by_rows
