"""Balancing many single-input single-output systems at once.

A system with one input has its Gramian factor in closed form: the rows of ``R`` are the values of an
orthonormal basis of rational functions at the eigenvalues, ``R_ij = b_i phi_j(l_i)`` (Takenaka 1925,
Malmquist 1925; for conjugate pairs the real functions of Kautz 1954). Every entry is a product of accurate
factors, so small Hankel singular values keep their digits. Input and output share the basis, which leaves one
small complex symmetric (real form: real symmetric) matrix for each system: ``L^H R = Phi^T diag(c b) Phi``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from compressm.lti.arithmetic import ComplexArray, one_minus_exp, wrapped
from compressm.lti.balancing import Balancing
from compressm.lti.realization import Realization, check_realization
from compressm.lti.system import DiagonalSystem

_EPS = torch.finfo(torch.float64).eps
_FASTEST = -60.0  # log-modulus below which an eigenvalue is zero beside 1
_TOGETHER = 1 << 20  # basis values that are formed at once


def balance_channels(
    log_A: Tensor,
    B: Tensor,
    C: Tensor,
    realization: Realization = "real",
    *,
    controllability: Tensor | None = None,
    observability: Tensor | None = None,
) -> tuple[Balancing, ...]:
    """Balance ``H`` systems ``y = Re(C_h x)`` of one input and one output each.

    The same as :func:`compressm.lti.balance` of each, in batches. A state with ``B = C = 0`` takes no part.

    Args:
        log_A: Logarithms of the eigenvalues, complex128 ``(H, N)``.
        B: Input matrices, complex128 ``(H, N)``.
        C: Output matrices, complex128 ``(H, N)``.
        realization: The form to balance.
        controllability: Factors ``R`` of other Gramians to use instead of the systems' own, ``(H, 2N, m)``
            real or ``(H, N, m)`` complex; no error bound holds then.
        observability: The same for ``L``.

    Returns:
        One balancing for each system.

    Raises:
        ValueError: If the realization is unknown, shapes disagree, or a system is unstable or not finite; it
            names the channel.
    """
    check_realization(realization)
    if log_A.ndim != 2 or B.shape != log_A.shape or C.shape != log_A.shape:
        raise ValueError(
            "balance_channels: log_A, B and C must all be (H, N), got "
            f"{tuple(log_A.shape)}, {tuple(B.shape)}, {tuple(C.shape)}"
        )
    systems = [_channel(h, log_A[h], B[h], C[h]) for h in range(log_A.shape[0])]
    size = log_A.shape[1] * (2 if realization == "real" else 1)
    for name, factor in (("controllability", controllability), ("observability", observability)):
        if factor is not None and (factor.ndim != 3 or factor.shape[:2] != (len(systems), size)):
            raise ValueError(
                f"balance_channels: in {realization} form the {name} factors must have shape "
                f"({len(systems)}, {size}, m), got {tuple(factor.shape)}"
            )
    step = max(1, _TOGETHER // (2 * log_A.shape[1] ** 2))
    balancings: list[Balancing] = []
    for start in range(0, len(systems), step):
        part = slice(start, start + step)
        R, L = (None if factor is None else factor[part] for factor in (controllability, observability))
        balancings += _balance(systems[part], realization, R, L)
    return tuple(balancings)


def _channel(index: int, log_A: Tensor, B: Tensor, C: Tensor) -> DiagonalSystem:
    try:
        return DiagonalSystem(None, B[:, None], C[None, :], log_A=log_A)
    except ValueError as error:
        raise ValueError(f"channel {index}: {error}") from error


def _balance(
    systems: list[DiagonalSystem], realization: Realization, R: Tensor | None, L: Tensor | None
) -> list[Balancing]:
    guaranteed = R is None and L is None
    if R is None or L is None:
        own_R, own_L = _own_factors(systems, realization)
        R, L = own_R if R is None else R, own_L if L is None else L
    U, sigma, Vh = torch.linalg.svd(L.mH @ R, full_matrices=False)
    size = R.shape[1]
    rounding = 4.0 * (L.norm(dim=2) * R.norm(dim=2)).sum(dim=1)
    noise = _EPS * torch.maximum(size * sigma[:, 0], rounding)
    rank = (sigma > noise[:, None]).sum(dim=1).tolist()
    values = torch.nn.functional.pad(sigma, (0, max(0, size - sigma.shape[1])))[:, :size]
    return [
        Balancing(
            system=system,
            realization=realization,
            hankel_singular_values=values[h],
            rank=rank[h],
            noise=float(noise[h]),
            right=R[h] @ Vh[h, : rank[h]].mH,
            left=U[h, :, : rank[h]].mH @ L[h].mH,
            guaranteed=guaranteed,
        )
        for h, system in enumerate(systems)
    ]


def _own_factors(systems: list[DiagonalSystem], realization: Realization) -> tuple[Tensor, Tensor]:
    """Factors of the systems' own Gramians, from one basis for both."""
    log_A = torch.stack([system.log_A for system in systems]).numpy()
    B = torch.stack([system.B[:, 0] for system in systems])
    C = torch.stack([system.C[0] for system in systems])
    real = realization == "real"
    basis = torch.from_numpy(_kautz(log_A) if real else _takenaka_malmquist(log_A))
    R, L = B[..., None] * basis, (C[..., None] * basis).conj().resolve_conj()
    if real:
        R, L = torch.cat([R.real, R.imag], dim=1), torch.cat([L.real, L.imag], dim=1)
    return R, L


def _kautz(log_A: ComplexArray) -> ComplexArray:
    """Real orthonormal functions of the pole pairs ``(a_j, conj a_j)``, at every eigenvalue: ``(H, N, 2N)``.

    ``|1 -+ a| sqrt((1 - |a|^2)/2) (1 +- z) / ((1 - a z)(1 - conj(a) z))``, times the Blaschke factors of the
    pairs before. Their coordinates of ``b_i / (1 - l_i z)`` are ``b_i phi_j(l_i)``; real and imaginary parts
    are the rows of ``[Re x; Im x]``.
    """
    poles = _clamped(log_A)
    minus, plus = one_minus_exp(poles), one_minus_exp(wrapped(poles + 1j * math.pi))
    weight = np.sqrt(-0.5 * np.expm1(2.0 * poles.real))
    below, below_conj = _denominators(poles, poles), _denominators(poles, poles.conj())
    zero, zero_conj = _differences(poles, poles), _differences(poles, poles.conj())
    blaschke = _before((zero / below) * (zero_conj / below_conj)) / (below * below_conj)
    first = plus[:, :, None] * (np.abs(minus) * weight)[:, None, :] * blaschke
    second = minus[:, :, None] * (np.abs(plus) * weight)[:, None, :] * blaschke
    return np.stack([first, second], axis=-1).reshape(*log_A.shape, -1)


def _takenaka_malmquist(log_A: ComplexArray) -> ComplexArray:
    """Complex orthonormal functions of the poles: ``R = diag(b) Phi`` has ``R R^H = P``; ``(H, N, N)``."""
    poles = _clamped(log_A)
    below = _denominators(poles, poles.conj())
    weight = np.sqrt(-np.expm1(2.0 * poles.real))
    values: ComplexArray = weight[:, None, :] * _before(_differences(poles, poles) / below) / below
    return values


def _before(factors: ComplexArray) -> ComplexArray:
    """Products over all earlier columns: 1, f_0, f_0 f_1, ..."""
    products = np.cumprod(factors, axis=2)
    return np.concatenate([np.ones_like(products[:, :, :1]), products[:, :, :-1]], axis=2)


def _clamped(log_A: ComplexArray) -> ComplexArray:
    values = wrapped(log_A)
    values.real = np.maximum(values.real, _FASTEST)
    return values


def _denominators(log_rows: ComplexArray, log_columns: ComplexArray) -> ComplexArray:
    """``1 - l_i m_j`` for every system, ``(H, N, N)``."""
    return one_minus_exp(wrapped(log_rows[:, :, None] + log_columns[:, None, :]))


def _differences(log_rows: ComplexArray, log_columns: ComplexArray) -> ComplexArray:
    """``l_i - m_j``, with the larger of the two taken out of the difference: no digit is lost."""
    rows, columns = np.broadcast_arrays(log_rows[:, :, None], log_columns[:, None, :])
    ahead = rows.real >= columns.real
    larger, smaller = np.where(ahead, rows, columns), np.where(ahead, columns, rows)
    differences: ComplexArray = np.exp(larger) * one_minus_exp(wrapped(smaller - larger))
    return np.where(ahead, differences, -differences)
