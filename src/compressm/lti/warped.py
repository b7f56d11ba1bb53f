"""Galerkin projection of selective layers in warped time.

Channel ``d`` of a selective layer, ``h_t = exp(Δ_t A_d) h_{t-1} + Δ_t B_t u_t``, ``y_t = C_t h_t``, is in the
time ``T_t = Δ_1 + ... + Δ_t`` the time-invariant system with rates ``A_d`` and, as ``B_t = W_B u_t`` and
``C_t = W_C u_t``, with input and output matrices ``W_B`` and ``W_C`` that all channels share. For a matrix
``Z`` ``(r, N)`` with orthonormal rows, ``Z W_B``, ``Z W_C`` and the diagonal of ``Z diag(A_d) Z^T`` are a
smaller layer of the same kind: each new rate is a convex combination of old ones, so it stays negative. What
is dropped are the off-diagonal entries; ``Z`` is turned so that they vanish on the average of all channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.lti.reduction import UnmeasuredReduction
from compressm.lti.search import Request

_NEGLIGIBLE = 1e-12  # of the largest energy: an amplitude below the resolution of float32
_TOGETHER = 1 << 22  # entries of the channels' Cauchy matrices that are summed at once


@dataclass(frozen=True, eq=False)
class WarpedReduction(UnmeasuredReduction):
    """An orthonormal basis for the states that stay.

    Attributes:
        basis: ``Z``, float64 ``(r, N)``, ``Z Z^T = I``.
    """

    basis: Tensor

    @property
    def order(self) -> int:
        """States that are left."""
        return self.basis.shape[0]

    @property
    def note(self) -> str:
        """Empty: there are always as many states as asked for."""
        return ""

    def rates(self, rates: Tensor) -> Tensor:
        """The diagonal of ``Z diag(a) Z^T`` for every row ``a`` of ``rates`` ``(d, N)``: ``(d, r)``.

        Each is within the range of the old ones, up to rounding.
        """
        weights = self.basis.square()
        return rates @ (weights / weights.sum(dim=1, keepdim=True)).mT


@dataclass(frozen=True, eq=False)
class WarpedBalancing:
    """States of a selective layer by their Gramians. Made by :func:`balance_warped`.

    Attributes:
        hankel_singular_values: Roots of the eigenvalues of ``P Q``, descending, float64 ``(N,)``.
        mean_rates: Of every state, averaged over channels, ``(N,)``.
        useful: Orthonormal columns ``(N, m)``: the states outside their span are never reached or never seen.
        right: Balanced directions of states inside, ``(m, m)``, the most important first.
        left: The same of adjoint states.
    """

    hankel_singular_values: Tensor
    mean_rates: Tensor
    useful: Tensor
    right: Tensor
    left: Tensor

    def truncate(self, order: int | None = None, *, keep: int | None = None) -> WarpedReduction:
        """Keep ``order`` states, or ``keep``, which is the same here.

        The basis is the best compromise between the leading right and left balanced directions: the bisectors
        of the principal angles between their spans. If more states are asked for than are of use, the others
        are of no use.

        Raises:
            TypeError: Unless exactly one of ``order`` and ``keep`` is given, as an int.
            ValueError: If it is out of range.
        """
        states = len(self.mean_rates)
        size = Request(order, keep).checked(states, states).largest(real=False)
        inside = self.useful.shape[1]
        if size >= inside:
            columns = _completed(self.useful)[:, :size]
        else:
            spans = torch.cat((_orthonormal(self.right[:, :size]), _orthonormal(self.left[:, :size])), dim=1)
            columns = self.useful @ torch.linalg.svd(spans).U[:, :size]
        turn = torch.linalg.eigh(columns.mT @ (self.mean_rates[:, None] * columns)).eigenvectors
        # Signs are free; this choice turns unit vectors into unit vectors.
        basis = (columns @ turn).mT
        largest = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
        return WarpedReduction((basis * largest.sign()).contiguous())


def balance_warped(controllability: Tensor, observability: Tensor, rates: Tensor) -> WarpedBalancing:
    """Rank directions of a selective layer's states.

    Args:
        controllability: Gramian of the states, summed over channels: ``(N, N)``. Its scale is free.
        observability: Gramian of the adjoint states, likewise.
        rates: Rates of every channel's states, negative, ``(d, N)``.

    Raises:
        ValueError: If a Gramian or a rate is not finite.
    """
    P, Q, A = (x.detach().to("cpu", torch.float64) for x in (controllability, observability, rates))
    for name, values in (("controllability", P), ("observability", Q), ("rates", A)):
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"balance_warped: {name} hold values that are not finite")
    useful = _useful(_useful(torch.eye(len(P), dtype=torch.float64), P, Q), Q, P)
    R, L = (_root(useful.mT @ X @ useful) for X in (P, Q))
    U, inside, Vh = torch.linalg.svd(L.mT @ R)
    values = torch.zeros(len(P), dtype=torch.float64)
    values[: len(inside)] = inside
    return WarpedBalancing(values, A.mean(dim=0), useful, R @ Vh.mT, L @ U)


def warped_gramians(rates: Tensor, W_B: Tensor, W_C: Tensor) -> tuple[Tensor, Tensor]:
    """Gramians in warped time for white inputs, summed over channels.

    ``P_nm = (W_B W_B^T)_nm / -(a_n + a_m)``, and the same of ``W_C`` for ``Q``.

    Args:
        rates: ``A``, negative, ``(d, N)``.
        W_B: ``(N, m)``.
        W_C: ``(N, m)``.

    Raises:
        ValueError: If a rate is not negative.
    """
    A, W_B, W_C = (x.detach().to("cpu", torch.float64) for x in (rates, W_B, W_C))
    if not bool((A < 0).all()):
        raise ValueError(f"rates of a selective layer must be negative; the largest is {float(A.max())}")
    states = A.shape[1]
    kernel = torch.zeros(states, states, dtype=torch.float64)
    for rows in torch.split(A, max(1, _TOGETHER // states**2)):
        kernel -= (1.0 / (rows[:, :, None] + rows[:, None, :])).sum(dim=0)
    return kernel * (W_B @ W_B.mT), kernel * (W_C @ W_C.mT)


def _useful(columns: Tensor, mine: Tensor, other: Tensor) -> Tensor:
    """The part of a span where states of one Gramian count, seen by the other; at least one direction."""
    mine, other = (columns.mT @ X @ columns for X in (mine, other))
    values, vectors = torch.linalg.eigh(mine)
    energies = values.clamp(min=0) * (vectors * (other @ vectors)).sum(dim=0).clamp(min=0)
    counts = energies > _NEGLIGIBLE * energies.max()
    counts[torch.argmax(energies)] = True
    return columns if bool(counts.all()) else columns @ vectors[:, counts]


def _completed(columns: Tensor) -> Tensor:
    """Orthonormal columns of the whole space that begin with the given ones."""
    return torch.cat((columns, torch.linalg.qr(columns, mode="complete").Q[:, columns.shape[1] :]), dim=1)


def _orthonormal(columns: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(columns).Q
    return basis


def _root(gramian: Tensor) -> Tensor:
    """A square root; rounding may have made the Gramian slightly indefinite."""
    values, vectors = torch.linalg.eigh(gramian)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
