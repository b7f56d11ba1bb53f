"""Balanced truncation, square-root form (Moore 1981; Tombs and Postlethwaite 1987)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compressm.lti.gramians import controllability_factor, gramian_factors, observability_factor
from compressm.lti.modes import MAX_SENSITIVITY, Modes, count_modes, eigenmodes, refined
from compressm.lti.projection import diagonal_system, silent_state
from compressm.lti.ranks import error_bound
from compressm.lti.realization import Realization, apply_dynamics, check_realization
from compressm.lti.reduction import Reduction, ReductionWarning
from compressm.lti.search import Found, Request, largest_usable
from compressm.lti.system import DiagonalSystem
from compressm.lti.triangular import gram_product, times

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Balancing:
    """A system in balanced coordinates, ready to be truncated at any size.  Made by :func:`balance`.

    Attributes:
        system: The system.
        realization: The form that was balanced.
        hankel_singular_values: Descending, float64: ``2N`` (real) or ``N`` (complex).
        rank: How many of them rounding cannot explain.
        right: ``R V``, ``(n, rank)``, real ``n = 2N`` or complex ``n = N``; ``T_r = R V S^{-1/2}``.
        left: ``U^H L^H``, ``(rank, n)``; ``T_l = S^{-1/2} U^H L^H``.
        noise: How far rounding may have moved a Hankel singular value.
        guaranteed: Whether the error bound holds: both Gramians are the system's own.
    """

    system: DiagonalSystem
    realization: Realization
    hankel_singular_values: Tensor
    rank: int
    right: Tensor
    left: Tensor
    noise: float
    guaranteed: bool = True

    def truncate(self, order: int | None = None, *, keep: int | None = None) -> Reduction:
        """Keep the leading balanced states and diagonalise what is left.

        Args:
            order: Number of complex states to have at most.  In real form the largest number of Hankel
                singular values is kept whose count of complex states (a conjugate pair counts once) does not
                exceed it.
            keep: Or the number of Hankel singular values to keep.

        Returns:
            The reduction.  It is smaller than asked for, and says so in ``limited_by`` and ``note``, when the
            numerical rank is smaller, or when the truncated matrix is unstable (equal values on both sides of
            the cut) or so close to defective that no diagonal form of it is usable
            (:data:`compressm.lti.modes.MAX_SENSITIVITY`); then the next smaller sizes are tried.

        Raises:
            TypeError: Unless exactly one of ``order`` and ``keep`` is given, as an int.
            ValueError: If it is out of range.
        """
        request = Request(order, keep).checked(self.system.state_dim, len(self.hankel_singular_values))
        if self.rank == 0:
            note = f"{request} asked for: nothing passes from input to output, one silent state is kept"
            found = Found(0, None, "rank", note)
        else:
            real = self.realization == "real"
            largest = min(request.largest(real=real), self.rank)
            found = largest_usable(_Truncations(self, largest), request, self.rank, real=real)
        return self.reduction(self.system, found, self.system.D)

    def reduction(self, original: DiagonalSystem, found: Found, direct: Tensor | None) -> Reduction:
        """Put a reduction of ``original`` together from what was found."""
        if found.modes is None:
            system, X, Y = silent_state(original, self.realization, direct)
            real_modes = torch.zeros(1, dtype=torch.bool)
        else:
            system, X, Y = diagonal_system(original, found.modes, self.realization, direct)
            real_modes = found.modes.real
        values = self.hankel_singular_values
        return Reduction(
            original=original,
            system=system,
            kept=found.size,
            realization=self.realization,
            hankel_singular_values=values,
            error_bound=error_bound(values, found.size) if self.guaranteed else None,
            right=X,
            left=Y,
            real_modes=real_modes,
            limited_by=found.limited_by,
            note=found.note,
        )

    @property
    def max_sensitivity(self) -> float:
        """Largest eigenvalue condition number that a truncation may have.

        At most :data:`compressm.lti.modes.MAX_SENSITIVITY`, and less where the system's own modes cancel so
        strongly that rounding, enlarged by this number, could exceed ``1e-9 sigma_1``.
        """
        if self.noise == 0.0:
            return MAX_SENSITIVITY
        return min(MAX_SENSITIVITY, max(10.0, 1e-9 * float(self.hankel_singular_values[0]) / self.noise))

    def dynamics(self, keep: int) -> Tensor:
        """The balanced state matrix of the leading states, ``(keep, keep)``."""
        root = torch.sqrt(self.hankel_singular_values[:keep])
        moved = apply_dynamics(self.system.A, self.right[:, :keep], self.realization)
        return (self.left[:keep] @ moved) / root[:, None] / root

    def bases(self, keep: int) -> tuple[Tensor, Tensor]:
        """``T_r`` ``(n, keep)`` and ``T_l`` ``(keep, n)``; ``T_l T_r = I``."""
        root = torch.sqrt(self.hankel_singular_values[:keep])
        return self.right[:, :keep] / root, self.left[:keep] / root[:, None]


class _Truncations:
    """The truncations of a balancing: leading blocks of one matrix."""

    def __init__(self, balancing: Balancing, largest: int) -> None:
        self._balancing = balancing
        self._matrix = balancing.dynamics(largest)
        self.max_sensitivity = balancing.max_sensitivity

    def count(self, keep: int) -> int:
        return count_modes(self._matrix[:keep, :keep])

    def modes(self, keep: int) -> Modes:
        balancing = self._balancing
        modes = eigenmodes(self._matrix[:keep, :keep], *balancing.bases(keep))
        return refined(modes, balancing.system.log_A, balancing.realization)


def balance(
    system: DiagonalSystem,
    realization: Realization = "real",
    *,
    controllability: Tensor | None = None,
    observability: Tensor | None = None,
) -> Balancing:
    """Balance a system once, to be truncated at any number of sizes.

    Args:
        system: The system.
        realization: ``"real"`` balances the map in use, ``u -> Re(C x)``; ``"complex"`` is the published
            form.
        controllability: A factor ``R`` of another Gramian ``R R^H`` to use instead of the system's own, in
            the coordinates of ``realization``: ``(2N, m)`` real, or ``(N, m)``.  For example a weighted one
            from :func:`compressm.lti.controllability_factor`, or states collected from data.
        observability: The same for ``Q = L L^H``.

    Returns:
        The balancing.  With a factor given from outside, no error bound of the plain map holds and
        ``Reduction.error_bound`` is None.

    Raises:
        ValueError: If ``realization`` is unknown or a factor has the wrong shape or is not finite.
    """
    check_realization(realization)
    size = system.state_dim * (2 if realization == "real" else 1)
    if controllability is None and observability is None:
        R, L = gramian_factors(system, realization)
    else:
        R = _factor_or_own("controllability", controllability, system, realization)
        L = _factor_or_own("observability", observability, system, realization)
    U, sigma, Vh = torch.linalg.svd(gram_product(L, R), full_matrices=False)
    noise = _EPS * max(size * float(sigma[0]), 4.0 * float(L.norm(dim=1) @ R.norm(dim=1)))
    rank = int((sigma > noise).sum())
    values = torch.zeros(size, dtype=torch.float64)
    values[: min(size, len(sigma))] = sigma[:size]
    return Balancing(
        system=system,
        realization=realization,
        hankel_singular_values=values,
        rank=rank,
        noise=noise,
        right=times(R, Vh[:rank].mH),
        left=times(L, U[:, :rank]).mH,
        guaranteed=controllability is None and observability is None,
    )


def balanced_truncation(
    system: DiagonalSystem,
    order: int | None = None,
    *,
    keep: int | None = None,
    realization: Realization = "real",
) -> Reduction:
    """Reduce a system by balanced truncation: :func:`balance`, then :meth:`Balancing.truncate`.

    Args:
        system: The system.
        order: Number of complex states to have at most.
        keep: Or the number of Hankel singular values to keep.
        realization: ``"real"`` balances the map in use, ``"complex"`` the published complex one.

    Returns:
        The reduction; ``error <= error_bound`` in either form.

    Raises:
        TypeError: Unless exactly one of ``order`` and ``keep`` is given.
        ValueError: If an argument is out of range.

    Warns:
        ReductionWarning: If fewer states than asked for are kept; see ``Reduction.note``.
    """
    reduction = balance(system, realization).truncate(order, keep=keep)
    if reduction.limited_by is not None:
        warnings.warn(reduction.note, ReductionWarning, stacklevel=2)
    return reduction


def _factor_or_own(
    name: Literal["controllability", "observability"],
    factor: Tensor | None,
    system: DiagonalSystem,
    realization: Realization,
) -> Tensor:
    """The given factor, checked, or the system's own."""
    if factor is None:
        own = controllability_factor if name == "controllability" else observability_factor
        return own(system, realization)
    size = system.state_dim * (2 if realization == "real" else 1)
    if factor.ndim != 2 or factor.shape[0] != size:
        raise ValueError(
            f"balance: in {realization} form the {name} factor must have shape ({size}, m), "
            f"got {tuple(factor.shape)}"
        )
    if factor.is_complex() and realization == "real":
        raise ValueError(f"balance: the {name} factor must be real in real form")
    tensor = factor.detach().cpu().to(torch.float64 if realization == "real" else torch.complex128)
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"balance: the {name} factor holds values that are not finite")
    return tensor
