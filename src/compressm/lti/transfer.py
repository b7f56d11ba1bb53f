"""Products with a transfer matrix, and its leading singular vectors, at many frequencies at once.

Vectors are rows, one per frequency: a product of a few of them with a large matrix then runs at the speed of
memory, which it does not for columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressm.lti.response import resolvents

if TYPE_CHECKING:
    from compressm.lti.system import DiagonalSystem

_RESIDUAL = 2e-6  # relative; its square is far below the 1e-10 to which peaks are refined
_STANDSTILL = 1e-8  # six Golub-Kahan steps gain four digits and more: that much less is left to gain


class TransferOperator:
    """Products with ``G(e^{jw})`` and its adjoint, one row per frequency, in real arithmetic."""

    def __init__(self, system: DiagonalSystem, dtype: torch.dtype = torch.float64) -> None:
        self.system = system
        self.inputs = torch.cat([system.B.real, system.B.imag]).to(dtype)
        self.outputs = torch.cat([system.C.real, system.C.imag], dim=1).to(dtype)
        self.direct = system.direct_matrix().to(dtype)
        self.has_direct = bool((self.direct != 0.0).any())

    @property
    def dtype(self) -> torch.dtype:
        """That of vectors."""
        return self.inputs.dtype.to_complex()

    def at(self, omega: Tensor) -> tuple[Tensor, Tensor]:
        """The resolvents, ``(F, N)`` each."""
        plus, minus = resolvents(self.system.log_A, omega)
        return plus.to(self.dtype), minus.to(self.dtype)

    def forward(self, at: tuple[Tensor, Tensor], V: Tensor) -> Tensor:
        """``G(w_f) v_f``: ``(F, H)`` to ``(F, P)``."""
        even, odd = _split(_real_times(V, self.inputs.mT), 1j, *at)
        result = _real_times(torch.cat([even, 1j * odd], dim=1), self.outputs.mT)
        return result + _real_times(V, self.direct.mT) if self.has_direct else result

    def adjoint(self, at: tuple[Tensor, Tensor], U: Tensor) -> Tensor:
        """``G(w_f)^H u_f``: ``(F, P)`` to ``(F, H)``."""
        even, odd = _split(_real_times(U, self.outputs), -1j, at[0].conj(), at[1].conj())
        result = _real_times(torch.cat([even, -1j * odd], dim=1), self.inputs)
        return result + _real_times(U, self.direct) if self.has_direct else result

    def mode_outputs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Complex rows ``(F, P)`` times ``C``, and times ``conj(C)``: ``(F, N)`` each."""
        return _conjugates(_real_times(rows, self.outputs))

    def mode_inputs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Complex rows ``(F, H)`` times ``B^T``, and times ``B^H``: ``(F, N)`` each."""
        return _conjugates(_real_times(rows, self.inputs.mT))

    def direct_outputs(self, rows: Tensor) -> Tensor:
        """Complex rows ``(F, P)`` times ``D``: ``(F, H)``."""
        if self.has_direct:
            return _real_times(rows, self.direct)
        return rows.new_zeros(len(rows), self.direct.shape[1])

    def pair_residues(self, U: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Residues ``(F, N)``, twice, and the rest ``(F,)``, to evaluate ``u_f^H G(w) v_f`` at any frequency.

        ``u_f^H G(w) v_f = sum_n plus_fn / (1 - l_n e^{-jw}) + minus_fn / (1 - conj(l_n) e^{-jw}) + rest_f``.
        """
        (left, left_conj), (right, right_conj) = self.mode_outputs(U.conj()), self.mode_inputs(V)
        plus, minus = 0.5 * left * right, 0.5 * left_conj * right_conj
        rest = _dots(U, _real_times(V, self.direct.mT)) if self.has_direct else torch.zeros_like(plus[:, :1])
        return plus, minus, rest[:, 0]


def _split(joined: Tensor, unit: complex, plus: Tensor, minus: Tensor) -> tuple[Tensor, Tensor]:
    """Half sum and half difference of ``plus (a + unit b)`` and ``minus (a - unit b)``, given ``[a, b]``."""
    a, b = joined.tensor_split(2, dim=1)
    turned = unit * b
    first, second = plus * (a + turned), minus * (a - turned)
    return 0.5 * (first + second), 0.5 * (first - second)


def _conjugates(joined: Tensor) -> tuple[Tensor, Tensor]:
    """``a + jb`` and ``a - jb``, given ``[a, b]``."""
    a, b = joined.tensor_split(2, dim=1)
    return a + 1j * b, a - 1j * b


def _real_times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Complex rows times a real matrix as one real product."""
    count = rows.shape[0]
    product = torch.cat([rows.real, rows.imag]) @ matrix
    return torch.complex(product[:count], product[count:])


def golub_kahan(
    transfer: TransferOperator, omega: Tensor, start: Tensor, *, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Golub-Kahan bidiagonalisation of ``G(w_f)`` for every frequency at once.

    Returns:
        The largest Ritz value ``(F,)`` and its left ``(F, P)`` and right ``(F, H)`` vectors.
    """
    at = transfer.at(omega)
    # A single row in start serves all frequencies, and is multiplied by the inputs once.
    v = _unit(start.to(transfer.dtype))[0]
    bidiagonal = torch.zeros(len(omega), steps, steps, dtype=transfer.inputs.dtype)
    lefts: list[Tensor] = []
    rights = [v]
    u = transfer.forward(at, v)
    for step in range(steps):
        for earlier in lefts:
            u = u - earlier * _dots(earlier, u)
        u, alpha = _unit(u)
        lefts.append(u)
        bidiagonal[:, step, step] = alpha[:, 0]
        if step + 1 == steps:
            break
        v = transfer.adjoint(at, u)
        for earlier in rights:
            v = v - earlier * _dots(earlier, v)
        v, beta = _unit(v)
        rights.append(v)
        bidiagonal[:, step, step + 1] = beta[:, 0]
        u = transfer.forward(at, v)
    left, values, right = torch.linalg.svd(bidiagonal)
    U = sum((lefts[i] * left[:, i, :1] for i in range(steps)), torch.zeros_like(u))
    V = sum((rights[i] * right[:, 0, i, None] for i in range(steps)), torch.zeros_like(rights[0]))
    return values[:, 0], U, V


def converged(transfer: TransferOperator, omega: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Restarted Golub-Kahan until the largest singular value is found, or stands still.

    What a Ritz value lacks is of second order in its residual. One whose residual does not reach the largest
    of all is of no interest.
    """
    gains, U, V = golub_kahan(transfer, omega, start, steps=4)
    for _ in range(30):
        residuals = _unit(transfer.adjoint(transfer.at(omega), U) - gains[:, None] * V)[1][:, 0]
        if bool(((residuals <= _RESIDUAL * gains) | (gains + residuals < gains.max())).all()):
            break
        before = gains
        gains, U, V = golub_kahan(transfer, omega, V, steps=6)
        if bool((gains - before <= _STANDSTILL * gains).all()):
            break
    return gains, U, V


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    norms = torch.linalg.vector_norm(torch.view_as_real(rows), dim=(1, 2))[:, None]
    return rows / torch.where(norms > 0.0, norms, torch.ones_like(norms)), norms


def _dots(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).sum(dim=1, keepdim=True)
