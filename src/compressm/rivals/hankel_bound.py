"""An upper bound of a layer's Hankel nuclear norm that touches it at one system, and is cheap elsewhere."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compressm.lti import DiagonalSystem, Realization
from compressm.rivals.hankel_balancing import balanced
from compressm.rivals.hankel_gramians import SystemGramians, Weight
from compressm.rivals.layer_systems import SystemTensors

FAR = 0.25
"""Relative change of either half of the bound from which a system is another one."""


class Touched(NamedTuple):
    """The bound at a system, with gradients by it: float64 ``()``, on the CPU.

    Attributes:
        reached: ``tr(P G^-1) / 2``, half of the nuclear norm where the bound touches.
        seen: ``tr(Q G) / 2``, half of it, too.
        squares: ``tr(P Q)``, the sum of the squares of the Hankel singular values, which is exact everywhere.
    """

    reached: Tensor
    seen: Tensor
    squares: Tensor


class HankelBound:
    """``sum sigma <= (tr(P G^-1) + tr(Q G)) / 2`` for every positive definite ``G``.

    Both sides are equal for the ``G`` with ``G Q G = P``, the geometric mean of ``P`` and ``Q^-1``: ``T_r
    T_r^H`` with the bases that balance. Made there, the bound has the norm's value and its gradient, at the
    cost of a singular value decomposition. Then it costs two Gramians, and leaves the norm with the square of
    what the system moves. To minimise it for some steps, make it anew and go on is
    majorisation-minimisation, as in iteratively reweighted least squares for nuclear norms (Mohan and Fazel
    2012): what brings the bound down brings the norm down. Its gradient also holds the system where it was
    made, eigenvalues' angles above all, for to them it is steeper than the norm.

    Values below the cutoff of :func:`~compressm.rivals.hankel_balancing.balanced` are left out of the bound.

    Args:
        anchor: Where it touches; kept without gradients.
        realization: ``"real"``: values of the map in use; ``"complex"``: of ``u -> C x``.

    Attributes:
        anchor: The system.
        norm: The nuclear norm there.

    Raises:
        ValueError: If the system is unstable or not finite.
    """

    def __init__(self, anchor: SystemTensors, realization: Realization) -> None:
        self.anchor = SystemTensors(*(tensor.detach().clone() for tensor in anchor))
        self._real = realization == "real"
        _check(self.anchor)
        gramians = SystemGramians.of(*self.anchor, real=self._real)
        found = balanced(gramians.reached.matrix(), gramians.seen.matrix())
        self._weights = found.weights(torch.ones_like(found.values), real=self._real)
        self.norm = float(found.values.sum())

    @property
    def count(self) -> int:
        """Hankel singular values, those left out included."""
        return len(self.anchor.log_A) * (2 if self._real else 1)

    def fits(self, system: SystemTensors) -> bool:
        """Whether a system has the shape of the anchor."""
        return all(one.shape == other.shape for one, other in zip(system, self.anchor, strict=True))

    def __call__(self, system: SystemTensors) -> Touched:
        """The bound at a system of the anchor's shape.

        Raises:
            ValueError: If the system is unstable or not finite.
        """
        _check(system)
        return Touched(*_Bound.apply(*system, self._weights, self._real))  # type: ignore[no-untyped-call]

    def is_far(self, touched: Touched) -> bool:
        """Whether the system has left the anchor: either half of the bound moved by more than :data:`FAR`."""
        middle, reach = 0.5 * self.norm, 0.5 * FAR * self.norm
        return any(abs(float(half.detach()) - middle) > reach for half in (touched.reached, touched.seen))


def _check(system: SystemTensors) -> None:
    log_A, B, C = (tensor.detach() for tensor in system)
    DiagonalSystem(None, B, C, log_A=log_A)


class _Bound(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_A: Tensor, B: Tensor, C: Tensor, weights: tuple[Weight, Weight], real: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        gramians = SystemGramians.of(log_A, B, C, real=real)
        reached, seen = gramians
        ctx.gramians, ctx.weights = gramians, weights
        return reached.traced(weights[0]), seen.traced(weights[1]), reached.traced(seen.as_weight())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        by_reached, by_seen, by_squares = (float(slope) for slope in slopes)
        on_reached, on_seen = ctx.weights[0].times(by_reached), ctx.weights[1].times(by_seen)
        if by_squares:
            reached, seen = ctx.gramians
            on_reached = on_reached.plus(seen.as_weight().times(by_squares))
            on_seen = on_seen.plus(reached.as_weight().times(by_squares))
        return (*ctx.gramians.gradient(on_reached, on_seen), None, None)
