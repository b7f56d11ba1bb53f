"""How gradients of B and C move when a cut changes the basis of the states.

The reduced state ``x_r`` and the old one are tied by the maps ``X`` and ``Y`` of a
:class:`~compressm.lti.Reduction`: the old input matrix acts like ``X B_r`` and the old output matrix like
``C_r Y``. A gradient moves by the adjoint of that map; what transforms like a squared gradient moves by the
squared entries of the same real matrices, which is exact for uncorrelated entries. Source: the chain rule,
written for real pairs because optimisers keep moments of real and imaginary parts separately.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.lti import Reduction


@dataclass(frozen=True)
class BasisChange:
    """Real coefficient matrices of the moves; a pair ``(2, ...)`` for the new real and imaginary parts.

    Attributes:
        B: ``(2, r, 2N)``, acts on the stacked ``[Re; Im]`` of anything like a gradient of B.
        C: ``(2, 2N, r)``, acts on the stacked ``[Re, Im]`` of anything like a gradient of C.
    """

    B: Tensor
    C: Tensor

    @classmethod
    def of(cls, reduction: Reduction) -> "BasisChange":
        """The moves that belong to a reduction, in either realization."""
        X, Y = reduction.right, reduction.left
        if reduction.realization == "complex":
            # m_B <- X^H m_B and m_C <- m_C Y^H, spelled out in real and imaginary parts.
            B = torch.stack((torch.cat((X.real, X.imag)).T, torch.cat((-X.imag, X.real)).T))
            C = torch.stack((torch.cat((Y.real, Y.imag), 1).T, torch.cat((-Y.imag, Y.real), 1).T))
            return cls(B, C)
        # x = 2 Re(X x_r) for a conjugate pair, X x_r for a real mode; the old C acts on (Re x, Im x) as
        # [Re C, -Im C], hence the sign on the lower half.
        factor = torch.where(reduction.real_modes, 1.0, 2.0).to(X.real.dtype)
        B = torch.stack(((factor * X.real).T, (-factor * X.imag).T))
        states = X.shape[0] // 2
        sign = torch.cat((torch.ones(states), -torch.ones(states))).to(X.real.dtype)[:, None]
        C = torch.stack((sign * Y.real.T, -sign * Y.imag.T))
        return cls(B, C)

    def input_moment(self, moment: Tensor, *, squared: bool = False) -> Tensor:
        """Move a pair ``(2, N, H)`` that transforms like B's gradient (or its square) to ``(2, r, H)``."""
        matrix = self.B**2 if squared else self.B
        return matrix @ moment.reshape(-1, moment.shape[2])

    def output_moment(self, moment: Tensor, *, squared: bool = False) -> Tensor:
        """Move a pair ``(2, P, N)`` that transforms like C's gradient (or its square) to ``(2, P, r)``."""
        matrix = self.C**2 if squared else self.C
        return torch.cat((moment[0], moment[1]), dim=1) @ matrix
