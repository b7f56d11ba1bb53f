"""Gramians in closed form, and factors of them, formed only where that loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressm.lti.arithmetic import cauchy_denominators
from compressm.lti.factors import gramian_factor
from compressm.lti.hermitian import mirrored, outer_products
from compressm.lti.pivots import Spectrum
from compressm.lti.realization import Realization, check_realization

if TYPE_CHECKING:
    from compressm.lti.system import DiagonalSystem

_WELL_CONDITIONED = 1e4  # condition number of a Gramian that may be formed
_PROBES, _INVERSE_STEPS = 4, 4


def controllability_gramian(system: DiagonalSystem) -> Tensor:
    """Complex128 ``(N, N)``: ``P_ij = (B B^H)_ij / (1 - l_i conj(l_j))`` solves ``P = A P A^H + B B^H``."""
    log_A = system.log_A.numpy()
    return system.B @ system.B.mH / torch.from_numpy(cauchy_denominators(log_A, log_A.conj()))


def observability_gramian(system: DiagonalSystem) -> Tensor:
    """Complex128 ``(N, N)``: ``Q_ij = (C^H C)_ij / (1 - conj(l_i) l_j)`` solves ``Q = A^H Q A + C^H C``."""
    log_A = system.log_A.numpy()
    return system.C.mH @ system.C / torch.from_numpy(cauchy_denominators(log_A.conj(), log_A))


def gramian_factors(system: DiagonalSystem, realization: Realization) -> tuple[Tensor, Tensor]:
    """Both factors of the system's own Gramians, ``R`` and ``L``."""
    spectrum = _spectrum(system, realization)
    R = _factor(spectrum, system.B, realization)
    return R, _factor(spectrum.conj(), system.C.mH, realization)


def controllability_factor(
    system: DiagonalSystem, realization: Realization = "real", *, input_factor: Tensor | None = None
) -> Tensor:
    """A factor ``R`` of the controllability Gramian, ``P = R R^H``, accurate row by row.

    Args:
        system: The system.
        realization: The coordinates: ``x`` itself, or ``(Re x, Im x)`` of the real system.
        input_factor: A real square root ``F`` ``(H, h)`` of an input covariance ``F F^T``: ``B F`` then
            stands for ``B``.

    Returns:
        ``"complex"``: complex128 ``(N, N)``; ``"real"``: float64 ``(2N, 2N)``.

    Raises:
        ValueError: If ``realization`` is unknown, or ``input_factor`` does not fit or is not finite.
    """
    B = system.B
    if input_factor is not None:
        B = B @ _weight("input_factor", input_factor, system.input_dim)
    return _factor(_spectrum(system, realization), B, realization)


def observability_factor(
    system: DiagonalSystem, realization: Realization = "real", *, output_factor: Tensor | None = None
) -> Tensor:
    """A factor ``L`` of the observability Gramian, ``Q = L L^H``, accurate row by row.

    Args:
        system: The system.
        realization: The coordinates: ``x`` itself, or ``(Re x, Im x)`` of the real system.
        output_factor: A real square root ``F`` ``(P, p)`` of an output importance ``F F^T``: ``F^T C`` then
            stands for ``C``.

    Returns:
        ``"complex"``: complex128 ``(N, N)``; ``"real"``: float64 ``(2N, 2N)``.

    Raises:
        ValueError: If ``realization`` is unknown, or ``output_factor`` does not fit or is not finite.
    """
    C = system.C
    if output_factor is not None:
        C = _weight("output_factor", output_factor, system.output_dim).mT @ C
    return _factor(_spectrum(system, realization).conj(), C.mH, realization)


def _spectrum(system: DiagonalSystem, realization: Realization) -> Spectrum:
    check_realization(realization)
    return Spectrum.of(system.A.numpy(), system.log_A.numpy(), real=realization == "real")


def _factor(spectrum: Spectrum, rows: Tensor, realization: Realization) -> Tensor:
    real = realization == "real"
    rows = rows.resolve_conj().contiguous()
    # With more rows than inputs the Gramian is always nearly singular: not worth a try.
    if rows.shape[1] >= rows.shape[0]:
        factor = _cholesky_factor(spectrum, rows)
        if factor is not None:
            return factor
    factor = torch.from_numpy(gramian_factor(spectrum, rows.numpy(), real=real))
    return torch.cat([factor.real, factor.imag]) if real else factor


def _cholesky_factor(spectrum: Spectrum, rows: Tensor) -> Tensor | None:
    """The factor by way of the Gramian itself, where that loses nothing; None elsewhere.

    Layers with more inputs than states have nearly independent states, ``P`` close to diagonal.  Scaled to
    unit diagonal it has a Cholesky factor whose rows are accurate relative to their length, and every Hankel
    singular value, the small ones too, is exact to about the condition number times rounding (a perturbation
    of ``P`` acts on them as ``I + R^{-1} dP R^{-H}``, from both sides).
    """
    plain, pseudo = _products(rows)
    P = plain / torch.from_numpy(spectrum.across)
    if spectrum.along is not None:
        P = real_blocks(P, pseudo / torch.from_numpy(spectrum.along))
    scale = P.diagonal().real.clamp(min=0.0).sqrt()
    if not bool((scale > 0.0).all()):
        return None
    correlations = P / scale[:, None] / scale
    factor, failed = torch.linalg.cholesky_ex(correlations)
    if int(failed):
        return None
    return scale[:, None] * factor if _condition(correlations, factor) <= _WELL_CONDITIONED else None


def _products(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``B B^H`` and ``B B^T`` from one real product."""
    parts = torch.cat([rows.real, rows.imag])
    product = mirrored(outer_products(parts.mT))
    (pp, pq), (qp, qq) = (half.tensor_split(2, dim=1) for half in product.tensor_split(2))
    return torch.complex(pp + qq, qp - pq), torch.complex(pp - qq, qp + pq)


def _condition(matrix: Tensor, factor: Tensor) -> float:
    """About the condition number of a positive definite matrix, from its Cholesky factor.

    Bounded from above at the large end (the 1-norm) and estimated at the small end, by a few steps of inverse
    iteration on a few vectors, to a factor of two or so.
    """
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(matrix), _PROBES, generator=generator, dtype=torch.float64).to(matrix.dtype)
    for _ in range(_INVERSE_STEPS):
        vectors = torch.linalg.qr(torch.cholesky_solve(vectors, factor)).Q
    smallest = 1.0 / float(torch.linalg.matrix_norm(torch.cholesky_solve(vectors, factor), 2))
    return float(torch.linalg.matrix_norm(matrix, 1)) / smallest


def real_blocks(plain: Tensor, pseudo: Tensor) -> Tensor:
    """``[[p p', p q'], [q p', q q']]`` from ``x x'^H`` and ``x x'^T`` with ``x = p + i q``."""
    plus, minus = 0.5 * (plain + pseudo), 0.5 * (plain - pseudo)
    top = torch.cat([plus.real, -minus.imag], dim=1)
    return torch.cat([top, torch.cat([plus.imag, minus.real], dim=1)])


def _weight(name: str, weight: Tensor, size: int) -> Tensor:
    if weight.is_complex() or weight.ndim != 2 or weight.shape[0] != size:
        raise ValueError(
            f"{name} must be real with shape ({size}, m), got {tuple(weight.shape)} of {weight.dtype}"
        )
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(f"{name} holds values that are not finite")
    return weight.detach().cpu().to(torch.complex128)
