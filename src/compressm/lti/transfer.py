"""Products with a transfer matrix, and its leading singular vectors, at many frequencies at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressm.lti.response import resolvents

if TYPE_CHECKING:
    from compressm.lti.system import DiagonalSystem

_STANDSTILL = 1e-8  # six Golub-Kahan steps gain four digits and more: that much less is left to gain


class TransferOperator:
    """Products with ``G(e^{jw})`` and its adjoint, one column per frequency, in real arithmetic."""

    def __init__(self, system: DiagonalSystem, dtype: torch.dtype = torch.float64) -> None:
        self.system = system
        self.inputs = torch.cat([system.B.real, system.B.imag]).to(dtype)
        self.outputs = torch.cat([system.C.real, system.C.imag], dim=1).to(dtype)
        self.direct = system.direct_matrix().to(dtype)
        self.has_direct = bool((self.direct != 0.0).any())

    def at(self, omega: Tensor) -> tuple[Tensor, Tensor]:
        """The resolvents as columns, ``(N, F)`` each."""
        plus, minus = resolvents(self.system.log_A, omega)
        dtype = self.inputs.dtype.to_complex()
        return plus.mT.to(dtype).contiguous(), minus.mT.to(dtype).contiguous()

    def forward(self, at: tuple[Tensor, Tensor], V: Tensor) -> Tensor:
        """``G(w_f) v_f``: ``(H, F)`` to ``(P, F)``."""
        even, odd = _split(_real_times(self.inputs, V), 1j, *at)
        result = _real_times(self.outputs, torch.cat([even, 1j * odd]))
        return result + _real_times(self.direct, V) if self.has_direct else result

    def adjoint(self, at: tuple[Tensor, Tensor], U: Tensor) -> Tensor:
        """``G(w_f)^H u_f``: ``(P, F)`` to ``(H, F)``."""
        even, odd = _split(_real_times(self.outputs.mT, U), -1j, at[0].conj(), at[1].conj())
        result = _real_times(self.inputs.mT, torch.cat([even, -1j * odd]))
        return result + _real_times(self.direct.mT, U) if self.has_direct else result

    def pair_residues(self, U: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Residues ``(N, F)``, twice, and the rest ``(F,)``, to evaluate ``u_f^H G(w) v_f`` at any frequency.

        ``u_f^H G(w) v_f = sum_n plus_nf / (1 - l_n e^{-jw}) + minus_nf / (1 - conj(l_n) e^{-jw}) + rest_f``.
        """
        a, b = _real_times(self.outputs.mT, U.conj()).tensor_split(2)
        c, d = _real_times(self.inputs, V).tensor_split(2)
        plus, minus = 0.5 * (a + 1j * b) * (c + 1j * d), 0.5 * (a - 1j * b) * (c - 1j * d)
        return plus, minus, (U.conj() * _real_times(self.direct, V)).sum(dim=0)


def _split(stacked: Tensor, unit: complex, plus: Tensor, minus: Tensor) -> tuple[Tensor, Tensor]:
    """Half sum and half difference of ``plus (a + unit b)`` and ``minus (a - unit b)``, given ``[a; b]``."""
    a, b = stacked.tensor_split(2)
    turned = unit * b
    first, second = plus * (a + turned), minus * (a - turned)
    return 0.5 * (first + second), 0.5 * (first - second)


def _real_times(matrix: Tensor, columns: Tensor) -> Tensor:
    """A real matrix times complex columns as one real product."""
    count = columns.shape[1]
    product = matrix @ torch.cat([columns.real, columns.imag], dim=1)
    return torch.complex(product[:, :count], product[:, count:])


def golub_kahan(
    transfer: TransferOperator, omega: Tensor, start: Tensor, *, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Golub-Kahan bidiagonalisation of ``G(w_f)`` for every frequency at once.

    Returns:
        The largest Ritz value ``(F,)`` and its left ``(P, F)`` and right ``(H, F)`` vectors.
    """
    at, start = transfer.at(omega), start.to(transfer.inputs.dtype.to_complex())
    count = len(omega)  # a single column in start serves all frequencies
    bidiagonal = torch.zeros(count, steps, steps, dtype=transfer.inputs.dtype)
    v = _unit(start)[0]
    lefts: list[Tensor] = []
    rights = [v]
    u = transfer.forward(at, v)
    for step in range(steps):
        for earlier in lefts:
            u = u - earlier * _dots(earlier, u)
        u, alpha = _unit(u)
        lefts.append(u)
        bidiagonal[:, step, step] = alpha
        if step + 1 == steps:
            break
        v = transfer.adjoint(at, u)
        for earlier in rights:
            v = v - earlier * _dots(earlier, v)
        v, beta = _unit(v)
        rights.append(v)
        bidiagonal[:, step, step + 1] = beta
        u = transfer.forward(at, v)
    rights[0] = rights[0].expand(-1, count)
    left, values, right = torch.linalg.svd(bidiagonal)
    U = sum((lefts[i] * left[:, i, 0] for i in range(steps)), torch.zeros_like(u))
    V = sum((rights[i] * right[:, 0, i] for i in range(steps)), torch.zeros_like(rights[0]))
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


def _unit(columns: Tensor) -> tuple[Tensor, Tensor]:
    norms = (columns.real.square().sum(dim=0) + columns.imag.square().sum(dim=0)).sqrt()
    return columns / torch.where(norms > 0.0, norms, torch.ones_like(norms)), norms


def _dots(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).sum(dim=0)
