"""Hankel singular values that can be differentiated: the closed form, and the costly one it replaces."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compressm.lti import DiagonalSystem, Realization
from compressm.lti.realization import check_realization
from compressm.rivals.hankel_balancing import balanced
from compressm.rivals.hankel_gramians import SystemGramians, in_real_coordinates

NAIVE_FLOOR = 1e-10
"""What the naive form puts in place of smaller eigenvalues of ``P Q``."""


def differentiable_hankel_values(
    log_A: Tensor, B: Tensor, C: Tensor, realization: Realization = "real"
) -> Tensor:
    """Hankel singular values of ``x_k = exp(log_A) x_{k-1} + B u_k``, ``y_k = Re(C x_k)``, for a loss.

    With balanced bases ``T_l``, ``T_r`` a change of the Gramians moves a value by ``d sigma_i = (T_l dP
    T_l^H)_ii / 2 + (T_r^H dQ T_r)_ii / 2``: one decomposition gives values and gradients, and none is
    differentiated.  Where values meet, symmetric functions of them (their sum) stay smooth, and so do these
    gradients.

    Args:
        log_A: Logarithms of the eigenvalues, ``(N,)``, complex128 on the CPU.
        B: ``(N, H)``, complex128 on the CPU.
        C: ``(P, N)``, complex128 on the CPU.
        realization: ``"real"``: the values of the map in use; ``"complex"``: of ``u -> C x``.

    Returns:
        float64, descending: ``2N`` values in real form, ``N`` in complex form.  Those up to ``1e-10`` of the
        largest are exactly 0, without a gradient.

    Raises:
        ValueError: If ``realization`` is unknown, shapes disagree, a value is not finite, or an eigenvalue is
            not inside the unit circle.
    """
    check_realization(realization)
    DiagonalSystem(None, B, C, log_A=log_A)  # its checks
    values: Tensor = _HankelValues.apply(  # type: ignore[no-untyped-call]
        log_A, B, C, realization == "real"
    )
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
        gramians = SystemGramians.of(log_A, B, C, real=real)
        found = balanced(gramians.reached.matrix(), gramians.seen.matrix())
        values = torch.zeros(len(log_A) * (2 if real else 1), dtype=torch.float64)
        values[: len(found.values)] = found.values
        ctx.gramians, ctx.balanced, ctx.real = gramians, found, real
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        found = ctx.balanced.weights(weights[: len(ctx.balanced.values)], real=ctx.real)
        return (*ctx.gramians.gradient(*found), None)


def _autograd_gramian(eigenvalues: Tensor, rows: Tensor, *, real: bool) -> Tensor:
    """The Gramian of :class:`~compressm.rivals.hankel_gramians.Gramian`, for autograd to follow."""
    hermitian = rows @ rows.mH / (1.0 - torch.outer(eigenvalues, eigenvalues.conj()))
    if not real:
        return hermitian
    return in_real_coordinates(hermitian, rows @ rows.mT / (1.0 - torch.outer(eigenvalues, eigenvalues)))
