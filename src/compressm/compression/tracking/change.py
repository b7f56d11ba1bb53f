"""How far a layer's map moved between two checks, which bounds how far its singular values can have moved."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compressm.lti import Balancing, DiagonalSystem, Realization
from compressm.lti.arithmetic import ComplexArray, cauchy_denominators
from compressm.lti.gramians import real_blocks


def change_bound(old: Balancing, new: Balancing) -> float:
    """Upper bound of ``||H' - H||``, the Hankel norm of the difference of two maps: its Hilbert-Schmidt norm.

    It bounds every singular value's move, ``|sigma_i' - sigma_i| <= ||H' - H||`` (Weyl 1912), and even
    ``sum_i (sigma_i' - sigma_i)^2 <= ||H' - H||_HS^2`` (Mirsky 1960). It costs two cross Gramians and no
    decomposition; what rounding may hide is added. The Hankel norm itself is :func:`hankel_distance`. In
    training neither is tight: a slow mode whose frequency shifts a little is another map, with equal values.

    Raises:
        ValueError: If the two have other inputs or outputs.
    """
    P, Q = cross_gramians(old.system, new.system, old.realization)
    # <H, H'> = trace(Q P^H): a difference of large numbers.
    shared = float((Q * P.conj()).sum().real)
    squares = sum(float((b.hankel_singular_values**2).sum()) for b in (old, new))
    rounding = 16 * torch.finfo(torch.float64).eps * (squares + float(Q.norm() * P.norm()))
    return math.sqrt(max(0.0, squares - 2 * shared) + rounding)


def hankel_distance(old: DiagonalSystem, new: DiagonalSystem, realization: Realization = "real") -> float:
    """``||H' - H||``, the largest Hankel singular value of the difference of two systems.

    Direct terms do not enter. Costs the singular values of a system with the states of both, about eight
    times those of one.
    """
    return float((new - old).hankel_singular_values(realization)[0])


def cross_gramians(
    old: DiagonalSystem, new: DiagonalSystem, realization: Realization
) -> tuple[Tensor, Tensor]:
    """``sum_k A^k B (A'^k B')^H`` and ``sum_k (C A^k)^H C' A'^k`` in the coordinates of ``realization``.

    Returns:
        Both ``(N, N')`` complex128, or ``(2N, 2N')`` float64 for the real form.

    Raises:
        ValueError: If the two systems have other inputs or outputs.
    """
    if (old.input_dim, old.output_dim) != (new.input_dim, new.output_dim):
        raise ValueError(
            "two systems are compared on equal inputs and outputs, got (H, P) = "
            f"{(old.input_dim, old.output_dim)} and {(new.input_dim, new.output_dim)}"
        )
    a, b = old.log_A.numpy(), new.log_A.numpy()

    def series(products: Tensor, first: ComplexArray, second: ComplexArray) -> Tensor:
        return products / torch.from_numpy(cauchy_denominators(first, second))

    P = series(old.B @ new.B.mH, a, b.conj())
    Q = series(old.C.mH @ new.C, a.conj(), b)
    if realization == "complex":
        return P, Q
    # With x = p + i q: x x'^H and x x'^T hold the four real products of p, q with p', q'.
    pseudo_P = series(old.B @ new.B.mT, a, b)
    pseudo_Q = series(old.C.mT @ new.C, a, b)
    # The output sees Re(C A^k) of a real part and -Im(C A^k) of an imaginary one: x stands for conj(C A^k).
    return real_blocks(P, pseudo_P), real_blocks(Q, pseudo_Q.conj())
