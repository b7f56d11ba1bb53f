"""Largest gain of a system with many inputs and outputs, without forming its transfer matrix.

Two facts make it cheap.  The gain at one frequency needs only products with ``G`` and ``G^H``, and
Golub-Kahan steps for all frequencies at once are matrix products.  And once good directions ``U``, ``V`` are
known, the small function ``U^H G(w) V`` is a lower bound of the gain that touches it, with its slope, at
every frequency whose leading singular vectors lie in ``U`` and ``V``: maximising the small function, and
adding the vectors found at its maximum, converges superlinearly (the greedy subspace idea of Aliyev, Benner,
Mengi, Schwerdtner and Voigt, 2017).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressm.lti.peaks import highest_peaks
from compressm.lti.response import resolvents, spectral_norms

if TYPE_CHECKING:
    from compressm.lti.system import DiagonalSystem

_CHEAP = 30_000_000  # grid points times matrix entries up to which the first look takes one step more
_FUNNEL = ((0.25, 2), (0.08, 2), (0.03, 3))  # keep this share of the points, then take so many more steps
_FEWEST = 12  # but never keep fewer
_REGION = 1  # the stage whose points, with their neighbours, are where the small function is searched
_PEAKS = 8  # maxima of the small function that are refined,
_CHECKED = 3  # and those of them whose directions are added
_ROUNDS = 12
_TOLERANCE = 1e-10
_STANDSTILL = 1e-8  # six steps gain four digits and more, so that much less is left to gain


def leading_gain(system: DiagonalSystem, grid: Tensor) -> float:
    """Largest gain over frequency: coarse on ``grid``, then refined; attained, so never above the norm."""
    transfer = TransferOperator(system)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(system.input_dim, 1, generator=generator, dtype=torch.complex128)
    points = len(grid)
    cheap = points * system.state_dim * (system.input_dim + system.output_dim) <= _CHEAP
    kept = torch.arange(points)
    region = grid
    gains, U, V = _golub_kahan(transfer, grid, start, steps=4 if cheap else 3)
    for stage, (share, steps) in enumerate(_FUNNEL):
        best = torch.topk(gains, min(max(_FEWEST, int(share * points)), len(kept))).indices.sort().values
        kept = kept[best]
        if stage == _REGION:
            neighbours = (kept[:, None] + torch.tensor([-1, 0, 1])).clamp(0, points - 1)
            region = grid[torch.unique(neighbours)]
        gains, U, V = _golub_kahan(transfer, grid[kept], V[:, best], steps=steps)
    best_gain = float(gains.max())
    if best_gain == 0.0:
        return 0.0
    for _ in range(_ROUNDS):
        small = _Projected(transfer, U, V)
        values = small.gains(region)
        peaks = highest_peaks(small.gains, region, values, count=_PEAKS, share=0.9)
        omega = peaks.omega[:_CHECKED]
        gains, left, right = _converged(transfer, omega, small.right_vectors(omega))
        best_gain = max(best_gain, float(gains.max()))
        if best_gain <= float(peaks.value[0]) * (1.0 + _TOLERANCE):
            break
        U, V = torch.cat([small.U, left], dim=1), torch.cat([small.V, right], dim=1)
    return best_gain


class TransferOperator:
    """Products with ``G(e^{jw})`` and its adjoint, one column per frequency, in real arithmetic."""

    def __init__(self, system: DiagonalSystem) -> None:
        self.system = system
        self.inputs = torch.cat([system.B.real, system.B.imag])
        self.outputs = torch.cat([system.C.real, system.C.imag], dim=1)
        self.direct = system.direct_matrix()
        self.has_direct = bool((self.direct != 0.0).any())

    def at(self, omega: Tensor) -> tuple[Tensor, Tensor]:
        """The resolvents as columns, ``(N, F)`` each."""
        plus, minus = resolvents(self.system.log_A, omega)
        return plus.mT.contiguous(), minus.mT.contiguous()

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


def _golub_kahan(
    transfer: TransferOperator, omega: Tensor, start: Tensor, *, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Golub-Kahan bidiagonalisation of ``G(w_f)`` for every frequency at once.

    Returns:
        The largest Ritz value ``(F,)`` and its left ``(P, F)`` and right ``(H, F)`` vectors.
    """
    at = transfer.at(omega)
    count = len(omega)  # a single column in start serves all frequencies
    bidiagonal = torch.zeros(count, steps, steps, dtype=torch.float64)
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


def _converged(transfer: TransferOperator, omega: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Restarted Golub-Kahan until the largest singular value stands still."""
    gains, U, V = _golub_kahan(transfer, omega, start, steps=4)
    for _ in range(30):
        before = gains
        gains, U, V = _golub_kahan(transfer, omega, V, steps=6)
        if bool((gains - before <= _STANDSTILL * gains).all()):
            break
    return gains, U, V


def _unit(columns: Tensor) -> tuple[Tensor, Tensor]:
    norms = columns.norm(dim=0)
    return columns / torch.where(norms > 0.0, norms, torch.ones_like(norms)), norms


def _dots(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).sum(dim=0)


class _Projected:
    """The small function ``U^H G(w) V`` on orthonormal bases of the given directions."""

    def __init__(self, transfer: TransferOperator, U: Tensor, V: Tensor) -> None:
        system = transfer.system
        self.U: Tensor = torch.linalg.qr(U)[0]
        self.V: Tensor = torch.linalg.qr(V)[0]
        self._log_A = system.log_A
        self._plus = _residues(self.U.mH @ system.C, system.B @ self.V)
        self._minus = _residues(self.U.mH @ system.C.conj(), system.B.conj() @ self.V)
        self._direct = self.U.mH @ (transfer.direct.to(torch.complex128) @ self.V)

    def matrices(self, omega: Tensor) -> Tensor:
        plus, minus = resolvents(self._log_A, omega)
        sides = self.U.shape[1], self.V.shape[1]
        matrices: Tensor = (plus @ self._plus + minus @ self._minus).reshape(-1, *sides) + self._direct
        return matrices

    def gains(self, omega: Tensor) -> Tensor:
        return spectral_norms(self.matrices(omega))

    def right_vectors(self, omega: Tensor) -> Tensor:
        """Leading right singular vectors in the large space, ``(H, F)``."""
        leading: Tensor = torch.linalg.svd(self.matrices(omega))[2][:, 0]
        return self.V @ leading.mH


def _residues(outputs: Tensor, inputs: Tensor) -> Tensor:
    """``c_n b_n / 2`` of every mode, flattened, ``(N, s t)``."""
    return 0.5 * (outputs.mT[:, :, None] * inputs[:, None, :]).flatten(1)
