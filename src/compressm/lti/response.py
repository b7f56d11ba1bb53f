"""What a system does to an impulse and to a sine: its responses in time and in frequency."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressm.lti.arithmetic import wrapped

if TYPE_CHECKING:
    from compressm.lti.system import DiagonalSystem

_CHUNK = 1 << 22  # complex numbers held at once: 64 MB


def impulse_response(system: DiagonalSystem, length: int) -> Tensor:
    """``h_k = Re(C A^k B)``, plus ``D`` at ``k = 0``; float64 ``(length, P, H)``."""
    if length < 1:
        raise ValueError(f"impulse_response: length must be positive, got {length}")
    inputs = torch.cat([system.B.real, system.B.imag])
    result = torch.empty(length, system.output_dim, system.input_dim, dtype=torch.float64)
    step = max(1, _CHUNK // (system.state_dim * system.output_dim))
    for start in range(0, length, step):
        k = torch.arange(start, min(start + step, length), dtype=torch.float64)
        outputs = system.C * _powers(system.log_A, k)[:, None, :]
        result[start : start + step] = torch.cat([outputs.real, -outputs.imag], dim=-1) @ inputs
    result[0] += system.direct_matrix()
    return result


def frequency_response(system: DiagonalSystem, omega: Tensor) -> Tensor:
    """``G(w) = D + (C (I - A e^{-jw})^{-1} B + conj(C) (I - conj(A) e^{-jw})^{-1} conj(B)) / 2``.

    Args:
        system: The system.
        omega: Angular frequencies in radians per sample, real, shape ``(F,)``.

    Returns:
        complex128 ``(F, P, H)``.
    """
    plus, minus = resolvents(system.log_A, omega.to(torch.float64))
    shape = (len(omega), system.output_dim, system.input_dim)
    result = torch.empty(shape, dtype=torch.complex128)
    step = max(1, _CHUNK // (system.state_dim * system.output_dim))
    for start in range(0, len(omega), step):
        part = slice(start, start + step)
        result[part] = (system.C * plus[part, None, :]) @ system.B
        result[part] += (system.C.conj() * minus[part, None, :]) @ system.B.conj()
    return 0.5 * result + system.direct_matrix()


def resolvents(log_A: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """``1 / (1 - l e^{-jw})`` and ``1 / (1 - conj(l) e^{-jw})``, complex128 ``(F, N)`` each."""
    poles = torch.from_numpy(wrapped(log_A.numpy()))
    return _resolvent(poles.real, poles.imag, omega), _resolvent(poles.real, -poles.imag, omega)


def spectral_norms(matrices: Tensor) -> Tensor:
    """Largest singular value of each matrix of a batch ``(F, P, H)``, through the smaller Gram matrix."""
    scale = matrices.abs().amax(dim=(1, 2)).clamp(min=torch.finfo(torch.float64).tiny)
    scaled = matrices / scale[:, None, None]
    gram = scaled @ scaled.mH if scaled.shape[1] <= scaled.shape[2] else scaled.mH @ scaled
    largest: Tensor = torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0.0).sqrt()
    return scale * largest


def _resolvent(decay: Tensor, angle: Tensor, omega: Tensor) -> Tensor:
    """``1 / (1 - e^{a + jp})`` with ``p = angle - w``, for all pairs of frequency and pole.

    As in :func:`compressm.lti.arithmetic.one_minus_exp` no digit is lost however close the pole; written out
    here because a search for a peak spends its time in these few lines.
    """
    half = 0.5 * (angle - omega[:, None])
    sine, imaginary = torch.sin(half), torch.cos(half)
    twice = 2.0 * torch.exp(decay)
    imaginary.mul_(sine).mul_(twice)
    real = sine.square_().mul_(twice).sub_(torch.expm1(decay))
    inverse = (real.square() + imaginary.square()).reciprocal_()
    return torch.complex(real.mul_(inverse), imaginary.mul_(inverse))


def _powers(log_A: Tensor, k: Tensor) -> Tensor:
    """``A^k``, ``(len(k), N)``, with ``0^0 = 1``."""
    decay = torch.where(k[:, None] == 0.0, 0.0, k[:, None] * log_A.real)
    return torch.polar(torch.exp(decay), k[:, None] * log_A.imag)
