"""The H-infinity norm: the largest gain of a system over all frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from compressm.lti.directions import leading_gain
from compressm.lti.peaks import frequency_grid, highest_peaks
from compressm.lti.response import frequency_response, spectral_norms

if TYPE_CHECKING:
    from compressm.lti.system import DiagonalSystem

_FINE = 0.2  # grid step, in pole distances: the zeros of an error system make ripples narrower than its poles
_COARSE = 1.0  # where every sample climbs to the top of its own peak
_SMALL = 256  # P * H up to which the whole transfer matrix is formed at every frequency


def hinf_norm(system: DiagonalSystem) -> float:
    """``max_w sigma_max(G(e^{jw}))`` of the real map ``u -> Re(C x) + D u``.

    The gain is sampled on a grid that resolves every pole and its highest maxima are refined to about 1e-10.
    For ``P * H <= 256`` every sample is exact; larger systems are searched through their leading input and
    output directions (:func:`compressm.lti.directions.leading_gain`), with memory ``O(N (P + H))`` per
    frequency.

    Returns:
        A gain that is attained at some frequency, up to rounding: never above the norm, and below it only if
        a peak was missed.
    """
    if system.output_dim * system.input_dim > _SMALL:
        return leading_gain(system, frequency_grid(system.log_A, _COARSE))
    grid = frequency_grid(system.log_A, _FINE)

    def gain(omega: Tensor) -> Tensor:
        return spectral_norms(frequency_response(system, omega))

    return float(highest_peaks(gain, grid, gain(grid), count=16, share=0.7).value[0])
