"""Gramians of a diagonal system and their gradients, laid out for a loss that is evaluated at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
        return cls(
            values=torch.from_numpy(complex_exp(log_A.numpy())),
            across=_one_minus_exp(rates, angles[:, None] - angles).reciprocal(),
            along=_one_minus_exp(rates, angles[:, None] + angles).reciprocal() if real else None,
        )

    def conj(self) -> Resolvents:
        """The same of the conjugate eigenvalues."""
        along = None if self.along is None else self.along.conj()
        return Resolvents(self.values.conj(), self.across.conj(), along)


class Weight(NamedTuple):
    """``W`` of a function ``tr(W P)`` of a Gramian, as :class:`Gramian` keeps ``P``.

    Attributes:
        hermitian: What multiplies ``E[x x^H]``, ``(N, N)``.
        symmetric: What multiplies ``E[x x^T]``, ``(N, N)``; None in complex form.
    """

    hermitian: Tensor
    symmetric: Tensor | None

    @classmethod
    def of(cls, matrix: Tensor, *, real: bool) -> Weight:
        """From ``W`` in the shape of :meth:`Gramian.matrix`, Hermitian."""
        if not real:
            return cls(matrix, None)
        (w11, w12), (w21, w22) = (half.tensor_split(2, dim=1) for half in matrix.tensor_split(2))
        return cls(
            torch.complex(w11 + w22, w21 - w12).mul_(0.5), torch.complex(w11 - w22, w21 + w12).mul_(0.5)
        )

    def times(self, factor: float) -> Weight:
        """``factor W``."""
        symmetric = None if self.symmetric is None else factor * self.symmetric
        return Weight(factor * self.hermitian, symmetric)

    def plus(self, other: Weight) -> Weight:
        """``W + W'``, both of one form."""
        if self.symmetric is None or other.symmetric is None:
            return Weight(self.hermitian + other.hermitian, None)
        return Weight(self.hermitian + other.hermitian, self.symmetric + other.symmetric)


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

    def as_weight(self) -> Weight:
        """Itself as the weight of another: ``tr(Q P)``."""
        if self.symmetric is None:
            return Weight(self.hermitian, None)
        return Weight(0.5 * self.hermitian, 0.5 * self.symmetric)

    def traced(self, weight: Weight) -> Tensor:
        """``Re tr(W P)``, ``()``."""
        total = torch.vdot(self.hermitian.flatten(), weight.hermitian.flatten()).real
        if self.symmetric is None or weight.symmetric is None:
            return total
        return total + torch.vdot(self.symmetric.flatten(), weight.symmetric.flatten()).real

    def gradient(self, weight: Weight) -> tuple[Tensor, Tensor]:
        """Gradients of ``Re tr(W P)`` by ``log l``, ``(N,)``, and by the rows, ``(N, H)``.

        Complex gradients are ``d/dRe + i d/dIm``, as autograd has them.
        """
        values, rows, known = self.resolvents.values, self.rows, self.resolvents
        found = _quotient_gradient(weight.hermitian, known.across, self.hermitian, values, values, rows)
        if self.symmetric is None or known.along is None or weight.symmetric is None:
            return found
        more = _quotient_gradient(
            weight.symmetric, known.along, self.symmetric, values, values.conj(), rows.conj()
        )
        return found[0] + more[0], found[1] + more[1]


class SystemGramians(NamedTuple):
    """Both Gramians of a system.

    Attributes:
        reached: ``P``, of controllability.
        seen: ``Q``, of observability: the controllability Gramian of the dual system, ``(conj(A), C^H)``.
    """

    reached: Gramian
    seen: Gramian

    @classmethod
    def of(cls, log_A: Tensor, B: Tensor, C: Tensor, *, real: bool) -> SystemGramians:
        """From ``(N,)``, ``(N, H)`` and ``(P, N)``, complex128 on the CPU.

        ``B`` and ``C`` are copied: an optimiser may change them in place before the gradient is asked for.
        """
        resolvents = Resolvents.of(log_A, real=real)
        return cls(Gramian.of(resolvents, B.clone()), Gramian.of(resolvents.conj(), C.mH.clone()))

    def gradient(self, on_reached: Weight, on_seen: Weight) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``Re tr(W_P P) + Re tr(W_Q Q)`` by ``log_A``, ``B`` and ``C``."""
        by_log_A, by_B = self.reached.gradient(on_reached)
        by_dual, by_C = self.seen.gradient(on_seen)
        return by_log_A + by_dual.conj(), by_B, by_C.mH.resolve_conj()


def in_real_coordinates(hermitian: Tensor, symmetric: Tensor) -> Tensor:
    """The covariance of ``(Re x, Im x)`` from ``E[x x^H]`` and ``E[x x^T]``."""
    total, difference = 0.5 * (hermitian + symmetric), 0.5 * (symmetric - hermitian)
    top = torch.cat((total.real, difference.imag), dim=1)
    return torch.cat((top, torch.cat((total.imag, -difference.real), dim=1)))


def _one_minus_exp(rates: Tensor, angle: Tensor) -> Tensor:
    """``1 - exp(rates_i + rates_j + i angle_ij)`` as :func:`compressm.lti.arithmetic.one_minus_exp` has it.

    With fewer functions to evaluate, and those vectorised: these matrices are new at every step.
    """
    half = 0.5 * angle
    sine = half.sin()
    moduli, short = rates.exp(), rates.expm1()
    turned = torch.outer(moduli, moduli).mul_(sine).mul_(2.0)
    # expm1(a + b) = expm1(a) + exp(a) expm1(b): below zero both, so that nothing cancels.
    real = sine.mul_(turned).sub_(short[:, None] + torch.outer(moduli, short))
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
