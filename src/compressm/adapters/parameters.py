"""Between a layer's parameters, in any type and place, and the exact numbers of the systems theory."""

from typing import NamedTuple

import torch
from torch import Tensor

from compressm.lti import DiagonalSystem, Reduction


class Scaled(NamedTuple):
    """A reduction in the coordinates that a layer stores.

    Attributes:
        reduction: The reduction with its modes scaled.
        B: Stored input matrix, complex128 ``(r, H)``: the system's without the layer's factor.
        C: The system's output matrix, complex128 ``(P, r)``.
    """

    reduction: Reduction
    B: Tensor
    C: Tensor


def double(parameter: Tensor) -> Tensor:
    """The value in float64 on the CPU."""
    return parameter.detach().to("cpu", torch.float64)


def pair(matrix: Tensor) -> Tensor:
    """A complex matrix as a real pair ``(2, ...)``."""
    return torch.stack((matrix.real, matrix.imag))


def unpair(parameter: Tensor) -> Tensor:
    """A real pair as a complex128 matrix on the CPU."""
    value = double(parameter)
    return torch.complex(value[0], value[1])


def check_vector_feedthrough(layer: str, system: DiagonalSystem) -> None:
    """Refuse a system whose direct term is a full matrix, which the layers here do not have.

    Raises:
        ValueError: With the remedy.
    """
    if system.D is not None and system.D.dim() != 1:
        raise ValueError(
            f"the D of {layer} is a vector, and this reduction (singular perturbation) needs a full matrix; "
            "use balanced truncation"
        )


def scaled_alike(reduction: Reduction, factor: Tensor, *, output_scale: float = 1.0) -> Scaled:
    """Choose the free scale of every mode: equal norms of a row of stored B and a column of stored C.

    Adam and weight decay see that scale, so neither matrix should be large at the other's expense.

    Args:
        reduction: The reduction.
        factor: What the layer multiplies its stored B by, ``(r,)``.
        output_scale: What it multiplies its stored C by.
    """
    row = torch.linalg.vector_norm(reduction.system.B, dim=1) / factor.abs()
    column = torch.linalg.vector_norm(reduction.system.C, dim=0) / output_scale
    alive = (row > 0) & (column > 0)
    scale = torch.where(alive, torch.sqrt(row / torch.where(alive, column, 1.0)), 1.0)
    reduction = reduction.rescaled(scale.to(torch.complex128))
    return Scaled(reduction, reduction.system.B / factor[:, None], reduction.system.C)


def participation(reduction: Reduction) -> Tensor:
    """How much of each new mode each old one makes up: float64 ``(N, r)``, columns sum to 1.

    Equal shares for a mode that none takes part in.
    """
    weights = reduction.left.mT * reduction.right
    if reduction.realization == "real":
        right_re, right_im = reduction.right.tensor_split(2)
        left_re, left_im = (part.mT for part in reduction.left.tensor_split(2, dim=1))
        weights = 0.5 * (left_re - 1j * left_im) * (right_re + 1j * right_im)
        conjugate = 0.5 * (left_re + 1j * left_im) * (right_re - 1j * right_im)
        shares = weights.abs() + conjugate.abs()
    else:
        shares = weights.abs()
    total = shares.sum(dim=0)
    return torch.where(total > 0, shares / torch.where(total > 0, total, 1.0), 1.0 / len(shares))
