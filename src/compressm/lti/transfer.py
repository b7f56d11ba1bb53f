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

    def pair_residues(self, U: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Residues ``(F, N)``, twice, and the rest ``(F,)``, to evaluate ``u_f^H G(w) v_f`` at any frequency.

        ``u_f^H G(w) v_f = sum_n plus_fn / (1 - l_n e^{-jw}) + minus_fn / (1 - conj(l_n) e^{-jw}) + rest_f``.
        """
        a, b = _real_times(U.conj(), self.outputs).tensor_split(2, dim=1)
        c, d = _real_times(V, self.inputs.mT).tensor_split(2, dim=1)
        plus, minus = 0.5 * (a + 1j * b) * (c + 1j * d), 0.5 * (a - 1j * b) * (c - 1j * d)
        rest = _dots(U, _real_times(V, self.direct.mT)) if self.has_direct else torch.zeros_like(plus[:, :1])
        return plus, minus, rest[:, 0]


def _split(joined: Tensor, unit: complex, plus: Tensor, minus: Tensor) -> tuple[Tensor, Tensor]:
    """Half sum and half difference of ``plus (a + unit b)`` and ``minus (a - unit b)``, given ``[a, b]``."""
    a, b = joined.tensor_split(2, dim=1)
    turned = unit * b
    first, second = plus * (a + turned), minus * (a - turned)
    return 0.5 * (first + second), 0.5 * (first - second)


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
    # A single row in start serves all frequencies.
    v = _unit(start.to(transfer.dtype))[0].expand(len(omega), -1)
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
    """Restarted Golub-Kahan until the largest singular value stands still."""
    gains, U, V = golub_kahan(transfer, omega, start, steps=4)
    for _ in range(30):
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
