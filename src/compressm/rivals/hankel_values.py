"""Hankel singular values that can be differentiated: the closed form, and the costly one it replaces."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compressm.lti import DiagonalSystem, Realization
from compressm.lti.arithmetic import complex_exp
from compressm.lti.pivots import Spectrum
from compressm.lti.realization import check_realization
from compressm.rivals.numerical_factor import numerical_factor

CUTOFF = 1e-10
"""Values up to this share of the largest count as zero: below it the balanced bases amplify rounding."""

NAIVE_FLOOR = 1e-10
"""What the naive form puts in place of smaller eigenvalues of ``P Q``."""


def differentiable_hankel_values(
    log_A: Tensor, B: Tensor, C: Tensor, realization: Realization = "real"
) -> Tensor:
    """Hankel singular values of ``x_k = exp(log_A) x_{k-1} + B u_k``, ``y_k = Re(C x_k)``, for a loss.

    With balanced bases ``T_l``, ``T_r`` a change of the Gramians moves a value by ``d sigma_i = (T_l dP
    T_l^H)_ii / 2 + (T_r^H dQ T_r)_ii / 2``: one singular value decomposition gives values and gradients, and
    no decomposition is differentiated.  Where values meet, symmetric functions of them (their sum) stay
    smooth, and so do these gradients.

    Args:
        log_A: Logarithms of the eigenvalues, ``(N,)``, complex128 on the CPU.
        B: ``(N, H)``, complex128 on the CPU.
        C: ``(P, N)``, complex128 on the CPU.
        realization: ``"real"``: the values of the map in use; ``"complex"``: of ``u -> C x``.

    Returns:
        float64, descending: ``2N`` values in real form, ``N`` in complex form.  Those up to :data:`CUTOFF` of
        the largest are exactly 0, without a gradient.

    Raises:
        ValueError: If ``realization`` is unknown, shapes disagree, a value is not finite, or an eigenvalue is
            not inside the unit circle.
    """
    check_realization(realization)
    DiagonalSystem(None, B, C, log_A=log_A)  # its checks
    values: Tensor = _HankelValues.apply(log_A, B, C, realization == "real")  # type: ignore[no-untyped-call]
    return values


def naive_hankel_values(log_A: Tensor, B: Tensor, C: Tensor, realization: Realization = "real") -> Tensor:
    """The same values as ``sqrt(eig(P Q))`` with autograd through it all: the form whose cost was published.

    For comparison alone.  It squares the condition number (values below about ``1e-8`` of the largest are
    noise), its gradient passes through eigenvectors of ``P Q`` that may be nearly dependent, and eigenvalues
    below :data:`NAIVE_FLOOR` are lifted to it, as in work on Hankel regularisation.

    Arguments, returned shape and errors are those of :func:`differentiable_hankel_values`.
    """
    check_realization(realization)
    DiagonalSystem(None, B, C, log_A=log_A)
    eigenvalues, adjoint = torch.exp(log_A), C.mH
    P = _autograd_gramian(eigenvalues, B, real=realization == "real")
    Q = _autograd_gramian(eigenvalues.conj(), adjoint, real=realization == "real")
    squares = torch.linalg.eigvals(P @ Q).real.clamp(min=NAIVE_FLOOR)
    values: Tensor = squares.sqrt().sort(descending=True).values
    return values


class _HankelValues(torch.autograd.Function):
    """Values forward; backward the closed form."""

    @staticmethod
    def forward(ctx: Any, log_A: Tensor, B: Tensor, C: Tensor, real: bool) -> Tensor:
        logs = log_A.numpy()
        spectrum = Spectrum.of(complex_exp(logs), logs, real=real)
        # Q is the controllability Gramian of the dual system (conj(A), C^H).
        R = numerical_factor(_gramian(spectrum, B))
        L = numerical_factor(_gramian(spectrum.conj(), C.mH))
        values = torch.zeros(len(log_A) * (2 if real else 1), dtype=torch.float64)
        U, sigma, Vh = torch.linalg.svd(L.mH @ R, full_matrices=False)
        kept = int((sigma > CUTOFF * sigma[0]).sum()) if len(sigma) else 0
        values[:kept] = sigma[:kept]
        root = torch.sqrt(sigma[:kept])
        ctx.save_for_backward(B, C, L @ U[:, :kept] / root, R @ Vh[:kept].mH / root)
        ctx.spectrum = spectrum
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        B, C, left, right = ctx.saved_tensors  # left: T_l^H, right: T_r
        half = 0.5 * weights[: left.shape[1]]
        by_log_A, by_B = _gramian_gradient(left * half @ left.mH, ctx.spectrum, B)
        by_dual, by_C = _gramian_gradient(right * half @ right.mH, ctx.spectrum.conj(), C.mH)
        return by_log_A + by_dual.conj(), by_B, by_C.mH.resolve_conj(), None


def _gramian(spectrum: Spectrum, rows: Tensor) -> Tensor:
    """``P`` with ``P = A P A^H + B B^H``; in real form that of ``(Re x, Im x)``."""
    hermitian = rows @ rows.mH / torch.from_numpy(spectrum.across)
    if spectrum.along is None:
        return hermitian
    return _in_real_coordinates(hermitian, rows @ rows.mT / torch.from_numpy(spectrum.along))


def _autograd_gramian(eigenvalues: Tensor, rows: Tensor, *, real: bool) -> Tensor:
    """The same, for autograd to follow."""
    hermitian = rows @ rows.mH / (1.0 - torch.outer(eigenvalues, eigenvalues.conj()))
    if not real:
        return hermitian
    return _in_real_coordinates(hermitian, rows @ rows.mT / (1.0 - torch.outer(eigenvalues, eigenvalues)))


def _in_real_coordinates(hermitian: Tensor, symmetric: Tensor) -> Tensor:
    """The covariance of ``(Re x, Im x)`` from ``E[x x^H]`` and ``E[x x^T]``."""
    total, difference = 0.5 * (hermitian + symmetric), 0.5 * (symmetric - hermitian)
    top = torch.cat((total.real, difference.imag), dim=1)
    return torch.cat((top, torch.cat((total.imag, -difference.real), dim=1)))


def _gramian_gradient(weight: Tensor, spectrum: Spectrum, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``Re tr(weight P)`` with respect to ``log_A`` and the rows; ``weight`` is Hermitian.

    Complex gradients are ``d/dRe + i d/dIm``, as autograd has them.
    """
    values, across = torch.from_numpy(spectrum.values), torch.from_numpy(spectrum.across)
    if spectrum.along is None:
        return _quotient_gradient(weight, across, values, rows, values.conj(), rows.conj())
    along = torch.from_numpy(spectrum.along)
    (w11, w12), (w21, w22) = (half.tensor_split(2, dim=1) for half in weight.tensor_split(2))
    on_hermitian = 0.5 * torch.complex(w11 + w22, w21 - w12)
    on_symmetric = 0.5 * torch.complex(w11 - w22, w21 + w12)
    log_1, rows_1 = _quotient_gradient(on_hermitian, across, values, rows, values.conj(), rows.conj())
    log_2, rows_2 = _quotient_gradient(on_symmetric, along, values, rows, values, rows)
    return log_1 + log_2, rows_1 + rows_2


def _quotient_gradient(
    weight: Tensor, denominators: Tensor, values: Tensor, rows: Tensor, partners: Tensor, partner_rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Through ``X_ij = (b_i . c_j) / (1 - l_i m_j)``, by ``log l`` and ``b``.

    The partners ``m``, ``c`` are ``l``, ``b`` themselves or their conjugates; they contribute as much again,
    which is the factor 2.
    """
    divided = weight / denominators.conj()
    slopes = divided * (rows @ partner_rows.mT / denominators).conj()
    by_log_values = 2.0 * values.conj() * (slopes @ partners.conj())
    return by_log_values, 2.0 * divided @ partner_rows.conj()
