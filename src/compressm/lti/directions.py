"""Largest gain of a system with many inputs and outputs, without forming its transfer matrix.

Three facts make it cheap.  The gain at one frequency needs only products with ``G`` and ``G^H``, and
Golub-Kahan steps for all frequencies at once are matrix products.  With a pair of directions found at one
frequency, ``|u^H G(w) v|`` is a lower bound of the gain at every other that costs ``N`` operations, so each
sample can climb to the top of its own peak.  And on a few directions ``U``, ``V`` the small function
``U^H G(w) V`` touches the gain, with its slope, wherever the leading singular vectors lie in them: maximising
it, and adding the vectors found at its maximum, converges superlinearly (the greedy subspace idea of Aliyev,
Benner, Mengi, Schwerdtner and Voigt, 2017).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressm.lti.peaks import highest_peaks
from compressm.lti.response import resolvents, spectral_norms
from compressm.lti.transfer import TransferOperator, converged, golub_kahan

if TYPE_CHECKING:
    from compressm.lti.system import DiagonalSystem

_CHEAP = 30_000_000  # grid points times matrix entries up to which the first look is a float64 one
_FUNNEL = ((0.5, 3), (0.2, 4), (0.05, 4))  # keep this share of the points, then take so many more steps
_FEWEST = 12  # but never keep fewer
_OFFSETS = 5  # places between its neighbours to which a sample may climb
_REGION = 1  # the stage whose points, with their neighbours, are where the small function is searched
_SAME = 1e-3  # points of it closer than this share of the least pole distance are taken for one
_PEAKS = 8  # maxima of the small function that are refined,
_CHECKED = 3  # and those of them whose directions are added
_ROUNDS = 12
_TOLERANCE = 1e-10


def leading_gain(system: DiagonalSystem, grid: Tensor) -> float:
    """Largest gain over frequency: coarse on ``grid``, then refined; attained, so never above the norm."""
    inward, outward = (float(matrix.abs().max()) or 1.0 for matrix in (system.B, system.C))
    unit = type(system)(
        None,
        system.B / inward,
        system.C / outward,
        None if system.D is None else system.direct_matrix() / (inward * outward),
        log_A=system.log_A,
    )
    return inward * outward * _unit_gain(unit, grid)


def _unit_gain(system: DiagonalSystem, grid: Tensor) -> float:
    """The same for matrices of size one, which float32 holds and whose squares do not vanish."""
    transfer = TransferOperator(system)
    points = len(grid)
    low, high = torch.cat([grid[:1], grid[:-1]]), torch.cat([grid[1:], grid[-1:]])
    omega, region = grid, grid
    look, gains, U, V = _first_look(system, grid, transfer)
    for stage, (share, steps) in enumerate(_FUNNEL):
        best = torch.topk(gains, min(max(_FEWEST, int(share * points)), len(gains))).indices.sort().values
        low, high, U, V = low[best], high[best], U[best], V[best]
        omega = _climb(look, omega[best], low, high, U, V)
        if stage == _REGION:
            region = _distinct(torch.cat([low, omega, high]), system)
        gains, U, V = _doubled(golub_kahan(look, omega, V, steps=steps))
    best_gain = float(golub_kahan(transfer, omega, V, steps=1)[0].max())
    if best_gain == 0.0:
        return 0.0
    for number in range(_ROUNDS):
        small = _Projected(transfer, U, V)
        values = small.gains(region)
        peaks = highest_peaks(small.gains, region, values, count=_PEAKS, share=0.9)
        # The first directions are no singular vectors yet; later ones touch the gain where it was highest.
        if number > 0 and float(peaks.value[0]) <= best_gain * (1.0 + _TOLERANCE):
            break
        omega = peaks.omega[:_CHECKED]
        gains, left, right = converged(transfer, omega, small.right_vectors(omega))
        best_gain = max(best_gain, float(gains.max()))
        if best_gain <= float(peaks.value[0]) * (1.0 + _TOLERANCE):
            break
        U, V = torch.cat([small.U, left]), torch.cat([small.V, right])
    return best_gain


def _first_look(
    system: DiagonalSystem, grid: Tensor, transfer: TransferOperator
) -> tuple[TransferOperator, Tensor, Tensor, Tensor]:
    """Estimated gains and directions at every grid point, from one random start, and what gave them.

    Float32 will do for an estimate, unless ``system`` is a difference of two that agree to more digits than
    that: then what came out is noise, which shows in that it exceeds what its own directions give. Two steps
    rank the points well enough to drop most of them; the shares of :data:`_FUNNEL` allow for their error.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, system.input_dim, generator=generator, dtype=torch.complex128)
    if len(grid) * system.state_dim * (system.input_dim + system.output_dim) <= _CHEAP:
        return transfer, *golub_kahan(transfer, grid, start, steps=4)
    single = TransferOperator(system, torch.float32)
    gains, U, V = _doubled(golub_kahan(single, grid, start, steps=2))
    best = torch.topk(gains, min(_FEWEST, len(grid))).indices
    reached = golub_kahan(transfer, grid[best], V[best], steps=1)[0]
    if bool((reached >= 0.999 * gains[best]).all()):
        return single, gains, U, V
    return transfer, *golub_kahan(transfer, grid, start, steps=3)


def _doubled(found: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Gains and directions in double precision."""
    gains, U, V = found
    return gains.double(), U.to(torch.complex128), V.to(torch.complex128)


def _climb(
    transfer: TransferOperator, omega: Tensor, low: Tensor, high: Tensor, U: Tensor, V: Tensor
) -> Tensor:
    """Move each frequency to where ``|u^H G v|`` of its own directions is largest between its neighbours."""
    steps = torch.linspace(0.0, 1.0, _OFFSETS + 2, dtype=torch.float64)[1:-1]
    places = torch.cat([omega[:, None], low[:, None] + (high - low)[:, None] * steps], dim=1)
    plus, minus, rest = transfer.pair_residues(U.to(transfer.dtype), V.to(transfer.dtype))
    at_plus, at_minus = _rough_resolvents(transfer, places.flatten())
    shape = (*places.shape, plus.shape[1])
    values = at_plus.reshape(shape) @ plus[:, :, None] + at_minus.reshape(shape) @ minus[:, :, None]
    top = (values[:, :, 0] + rest[:, None]).abs().argmax(dim=1)
    return places.gather(1, top[:, None])[:, 0]


def _distinct(omega: Tensor, system: DiagonalSystem) -> Tensor:
    """Ascending frequencies; of those that rounding alone may tell apart, whose gains rank by chance, one."""
    ascending = omega.sort().values
    gaps = ascending.diff(prepend=ascending.new_full((1,), -torch.inf))
    return ascending[gaps > _SAME * min(1.0, -float(system.log_A.real.max()))]


def _rough_resolvents(transfer: TransferOperator, omega: Tensor) -> tuple[Tensor, Tensor]:
    """What ``transfer.at`` gives, without its care near the unit circle.

    Good enough to choose among places: no exponential for each pole and place.
    """
    turned, A = torch.polar(torch.ones_like(omega), -omega)[:, None], transfer.system.A
    nearly_one = 1.0 + torch.finfo(torch.float64).eps
    plus, minus = (nearly_one - turned * poles for poles in (A, A.conj()))
    return plus.to(transfer.dtype).reciprocal_(), minus.to(transfer.dtype).reciprocal_()


class _Projected:
    """The small function ``U^H G(w) V`` on orthonormal bases of the given directions.

    Attributes:
        U: A basis of output directions as rows, ``(s, P)``; ``U^H`` above is its conjugate.
        V: A basis of input directions as rows, ``(t, H)``.
    """

    def __init__(self, transfer: TransferOperator, U: Tensor, V: Tensor) -> None:
        self.U: Tensor = torch.linalg.qr(U.mT)[0].mT
        self.V: Tensor = torch.linalg.qr(V.mT)[0].mT
        self._log_A = transfer.system.log_A
        outward = self.U.conj()
        outputs, inputs = transfer.mode_outputs(outward), transfer.mode_inputs(self.V)
        self._plus, self._minus = (_residues(c, b) for c, b in zip(outputs, inputs, strict=True))
        self._direct = transfer.direct_outputs(outward) @ self.V.mT

    def matrices(self, omega: Tensor) -> Tensor:
        plus, minus = resolvents(self._log_A, omega)
        sides = len(self.U), len(self.V)
        matrices: Tensor = (plus @ self._plus + minus @ self._minus).reshape(-1, *sides) + self._direct
        return matrices

    def gains(self, omega: Tensor) -> Tensor:
        return spectral_norms(self.matrices(omega))

    def right_vectors(self, omega: Tensor) -> Tensor:
        """Leading right singular vectors in the large space, ``(F, H)``."""
        leading: Tensor = torch.linalg.svd(self.matrices(omega))[2][:, 0]
        return leading.conj() @ self.V


def _residues(outputs: Tensor, inputs: Tensor) -> Tensor:
    """``c_n b_n / 2`` of every mode, flattened, ``(N, s t)``, of ``(s, N)`` and ``(t, N)``."""
    return (0.5 * outputs.mT[:, :, None] * inputs.mT[:, None, :]).flatten(1)
