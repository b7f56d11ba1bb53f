"""What a cut of an earlier check would have kept, remembered until it can be judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressm.lti import Balancing


@dataclass(frozen=True, eq=False)
class Reference:
    """The spectrum of a layer at a check, and the subspace that a cut of then would have kept.

    Attributes:
        step: Step of the check.
        values: Hankel singular values, ``(n,)``.
        right: Directions ``T_r`` in the state space, float32 ``(n, k)``; None if only values were shown.
        left: Functionals ``T_l`` on it, float32 ``(k, n)``.
    """

    step: int
    values: Tensor
    right: Tensor | None
    left: Tensor | None

    @classmethod
    def of(cls, step: int, values: Tensor, boundary: int, balancing: Balancing | None) -> Reference:
        """Remember the leading ``boundary`` balanced states."""
        if balancing is None:
            return cls(step, values, None, None)
        keep = min(boundary, balancing.rank)
        # Only the spans count, so single precision and any scale of the columns will do.
        right, left = (_unit(balancing.right[:, :keep], 0), _unit(balancing.left[:keep], 1))
        single = torch.complex64 if right.is_complex() else torch.float32
        return cls(step, values, right.to(single), left.to(single))

    def fits(self, values: Tensor) -> bool:
        """Whether the layer still has the size it had."""
        return len(values) == len(self.values)

    def drift(self, values: Tensor) -> float:
        """Half the sum of the absolute differences of the two normalised spectra, in ``[0, 1]``."""
        return 0.5 * float((_normalised(values) - _normalised(self.values)).abs().sum())

    def kept(self, today: Balancing) -> tuple[float, float] | None:
        """Shares of today's sum of HSVs: what this subspace holds, and what the best of its size would.

        With today's dynamics the remembered functionals see the past inputs ``V = range((T_l C)^H)``, and the
        directions reach the future outputs ``U = range(O T_r)``; what is held is the nuclear norm of today's
        Hankel operator between the two, ``|| P_U H P_V ||_*``, of ``||H||_* = sum sigma``.

        Returns:
            None if this reference has no subspace.
        """
        if self.right is None or self.left is None:
            return None
        keep, values = self.right.shape[1], today.hankel_singular_values[: today.rank]
        total = float(values.sum())
        if keep == 0 or total == 0.0:
            return (0.0, 0.0) if total > 0.0 else (1.0, 1.0)
        if keep >= today.rank:
            return 1.0, 1.0
        # In today's balanced coordinates, whose signals are orthonormal.
        inward = torch.linalg.qr((self.left.to(today.right.dtype) @ today.right).mH)[0]
        outward = torch.linalg.qr(today.left @ self.right.to(today.left.dtype))[0]
        held = torch.linalg.svdvals(outward.mH @ (values[:, None] * inward))
        return min(1.0, float(held.sum()) / total), float(values[:keep].sum()) / total

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""
        return {"step": self.step, "values": self.values, "right": self.right, "left": self.left}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Reference:
        """The inverse of :meth:`state_dict`."""
        return cls(state["step"], state["values"], state["right"], state["left"])


def _unit(matrix: Tensor, dim: int) -> Tensor:
    norms = matrix.norm(dim=dim, keepdim=True)
    return matrix / torch.where(norms > 0, norms, torch.ones_like(norms))


def _normalised(values: Tensor) -> Tensor:
    total = values.sum()
    return values / total if float(total) > 0 else values
