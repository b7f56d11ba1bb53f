"""The smallest all-pass pieces a Gramian factor is built from: one complex pole, or one conjugate pair.

A *pivot* is an orthonormal (input-normal) system ``(F, G)``, ``F F^H + G G^H = I``, whose poles are the
pivot's own.  For a row ``x`` at eigenvalue ``l`` it gives

* the coordinates of ``x / (1 - l z)`` in the pivot's basis functions, ``r = x G^H (I - l F^H)^{-1}``, and
* what is left of the row outside their span, ``x - (1 - l) r V`` with ``V = (I - F)^{-1} G``.

This is the Takenaka-Malmquist construction, with Potapov's factors normalised to the identity at ``z = 1``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from compressm.lti.arithmetic import Array, ComplexArray, FloatArray, cauchy_denominators, one_minus_exp


@dataclass(frozen=True)
class Spectrum:
    """What the pivots need to know about the eigenvalues, each quantity accurate to the last digits.

    Attributes:
        values: ``l``, shape ``(N,)``.
        one_minus: ``1 - l``.
        gap: ``1 - |l|^2``, real.
        across: ``1 - l_i conj(l_j)``, shape ``(N, N)``.
        along: ``1 - l_i l_j``, shape ``(N, N)``; needed for conjugate pairs only.
    """

    values: ComplexArray
    one_minus: ComplexArray
    gap: FloatArray
    across: ComplexArray
    along: ComplexArray | None

    @classmethod
    def of(cls, values: ComplexArray, log_values: ComplexArray, *, real: bool) -> Spectrum:
        """Evaluate everything from ``log_values``; ``values`` are their exponentials."""
        return cls(
            values=values,
            one_minus=one_minus_exp(log_values),
            gap=-np.expm1(2.0 * log_values.real),
            across=cauchy_denominators(log_values, log_values.conj()),
            along=cauchy_denominators(log_values, log_values) if real else None,
        )

    def conj(self) -> Spectrum:
        """The same of the conjugate eigenvalues."""
        return Spectrum(
            values=self.values.conj(),
            one_minus=self.one_minus.conj(),
            gap=self.gap,
            across=self.across.conj(),
            along=None if self.along is None else self.along.conj(),
        )


class Pivot(Protocol):
    """One elimination step, ``width`` basis functions wide."""

    width: ClassVar[int]
    dtype: ClassVar[npt.DTypeLike]

    directions: Array
    """``(h, width)``: orthonormal columns that span what the pivot sees of a row."""
    update: Array
    """``(width, h)``: the matrix ``V``; a row loses ``(1 - l) r V``."""

    def __init__(self, spectrum: Spectrum, index: int, row: ComplexArray) -> None: ...

    def coordinates(self, inner: ComplexArray, rows: slice) -> ComplexArray:
        """Turn ``x @ directions`` of the given rows into their coordinates ``r``, ``(n, width)`` both."""
        ...


class ComplexPole:
    """One pole ``l`` with the direction of its row: ``F = l``, ``G = sqrt(1 - |l|^2) b / |b|``."""

    width: ClassVar[int] = 1
    dtype: ClassVar[npt.DTypeLike] = np.complex128

    def __init__(self, spectrum: Spectrum, index: int, row: ComplexArray) -> None:
        unit = row / np.abs(row).max()
        unit /= np.linalg.norm(unit)
        length = math.sqrt(spectrum.gap[index])
        self._kernel = length / spectrum.across[:, index]
        self.directions: Array = unit.conj()[:, None]
        self.update: Array = (length / spectrum.one_minus[index]) * unit[None, :]

    def coordinates(self, inner: ComplexArray, rows: slice) -> ComplexArray:
        """``x b^H / |b| sqrt(1 - |l|^2) / (1 - l_i conj(l))``."""
        result: ComplexArray = inner * self._kernel[rows, None]
        return result


class ConjugatePair:
    """A pole ``l = a + iy``, its conjugate, and a real orthonormal basis of the space the two span.

    The row is turned by a phase, which changes no span, to ``p u + i q v`` with real orthonormal ``u``, ``v``
    and ``p >= q >= 0``.  In the plane of ``u`` and ``v`` the pair is the real system
    ``A = [[a, -y], [y, a]]``, ``B = diag(p, q)``.  Its Gramian ``K = T T^T`` is written out below as sums of
    terms of one sign, so that a pole close to the real axis with a row close to real, where ``K`` is nearly
    singular, costs no digits.
    """

    width: ClassVar[int] = 2
    dtype: ClassVar[npt.DTypeLike] = np.float64

    def __init__(self, spectrum: Spectrum, index: int, row: ComplexArray) -> None:
        if spectrum.along is None:
            raise ValueError(
                "a conjugate pair needs the products 1 - l_i l_j: build the spectrum with real=True"
            )
        p, q, plane = _principal_plane(row)
        a, y, gap = spectrum.values[index].real, spectrum.values[index].imag, spectrum.gap[index]
        difference = (p - q) * (p + q)
        square = gap * gap + 4.0 * y * y  # |1 - l^2|^2
        k11 = 0.5 * (1.0 / gap + difference * (gap + 2.0 * y * y) / square)
        kappa = difference * a / (square * k11)  # k12 / (k11 y)
        t11 = math.sqrt(k11)
        spread = math.hypot(y, p * q * gap)
        skew = cross = 0.0
        if spread > 0.0:  # else a real pole with a real row: one state, not two
            t22 = spread / (gap * math.sqrt(square) * t11)
            skew, cross = y / t22, q / t22
        self._weights = (p / t11, q * y / t11, p * skew, cross, kappa, kappa * y * y)
        self._values = spectrum.values
        self._across, self._along = spectrum.across[:, index], spectrum.along[:, index]
        self.directions: Array = plane.T
        away, distance = spectrum.one_minus[index].real, abs(spectrum.one_minus[index]) ** 2
        mixing = np.array(
            [
                [away * p / t11, -y * q / t11],
                [p * skew * (1.0 - kappa * away), cross * (away + kappa * y * y)],
            ]
        )
        self.update: Array = mixing / distance @ plane

    def coordinates(self, inner: ComplexArray, rows: slice) -> ComplexArray:
        """``x B^T (I - l_i A^T)^{-1} T^{-T}``, entry by entry."""
        across, along, values = self._across[rows], self._along[rows], self._values[rows]
        first_u, first_v, second_u, second_v, kappa, bend = self._weights
        even = 0.5 * (across + along)  # 1 - l_i a
        u, v = inner[:, 0], inner[:, 1]
        result = np.empty_like(inner)
        result[:, 0] = first_u * even * u - first_v * values * v
        result[:, 1] = second_u * (values - kappa * even) * u + second_v * (even + bend * values) * v
        result /= (across * along)[:, None]
        return result


def _principal_plane(row: ComplexArray) -> tuple[float, float, FloatArray]:
    """Write ``row = |row| e^{it} (p u + i q v)``; return ``p``, ``q`` and ``[u; v]``, ``(2, h)``.

    ``p^2 + q^2 = 1``, ``p >= q >= 0``; ``v`` is zero where ``q`` is.
    """
    unit = row / np.abs(row).max()
    turned = unit * np.exp(-0.5j * np.angle(unit @ unit))
    larger, smaller = turned.real, turned.imag
    plane = np.zeros((2, row.shape[0]))
    length = math.sqrt(larger @ larger)
    plane[0] = larger / length
    smaller = smaller - (smaller @ plane[0]) * plane[0]
    rest = math.sqrt(smaller @ smaller)
    if rest == 0.0:
        return 1.0, 0.0, plane
    smaller /= rest
    smaller -= (smaller @ plane[0]) * plane[0]  # once more: what was left may have been rounding along u
    again = math.sqrt(smaller @ smaller)
    if again == 0.0:
        return 1.0, 0.0, plane
    plane[1] = smaller / again
    total = math.hypot(length, rest)
    return length / total, rest / total, plane
