"""Where the continuous-time eigenvalues of S4D and S5 start: HiPPO-LegS and its simpler relatives.

Each function returns the half of a conjugate-symmetric spectrum of ``2N`` eigenvalues that has positive
imaginary parts; the other half is implied by ``y = 2 Re(C x)``.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Spectrum = Literal["legs", "lin", "inv"]


def hippo_legs(size: int) -> tuple[Tensor, Tensor]:
    """The HiPPO-LegS matrices (Gu et al., NeurIPS 2020, theorem 2), for ``x' = A x + B u``.

    ``A_nk = -sqrt((2n+1)(2k+1))`` below the diagonal, ``-(n+1)`` on it, 0 above; ``B_n = sqrt(2n+1)``.

    Returns:
        ``A`` ``(size, size)`` and ``B`` ``(size,)``, float64.
    """
    root = torch.sqrt(2 * torch.arange(size, dtype=torch.float64) + 1)
    below = torch.tril(root[:, None] * root, diagonal=-1)
    return -below - torch.diag(torch.arange(1, size + 1, dtype=torch.float64)), root


def hippo_legs_normal(size: int) -> Tensor:
    """The normal part of HiPPO-LegS: ``A + p p^T`` with ``p_n = sqrt(n + 1/2)``.

    It is ``-I/2`` plus a skew-symmetric matrix (Gu et al., ICLR 2022, theorem 1), so its eigenvectors are
    orthonormal and its eigenvalues have real part -1/2.

    Returns:
        float64 ``(size, size)``.
    """
    A, B = hippo_legs(size)
    return A + 0.5 * B[:, None] * B


def legs_modes(states: int, blocks: int = 1) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the normal part, half of each conjugate pair.

    Args:
        states: Complex states ``N``; the matrix has size ``2N``.
        blocks: Diagonal blocks of the matrix, each a HiPPO matrix of its own of size ``2N / blocks`` (Smith
            et al., ICLR 2023). Must divide ``states``.

    Returns:
        Eigenvalues complex128 ``(N,)`` and orthonormal eigenvectors complex128 ``(2N, N)``.

    Raises:
        ValueError: If ``blocks`` does not divide ``states``.
    """
    if blocks < 1 or states % blocks:
        raise ValueError(f"HiPPO: {blocks} blocks cannot share {states} states; blocks must divide them")
    skew = hippo_legs_normal(2 * states // blocks)
    skew = 0.5 * (skew - skew.T)
    # The eigenvalues of a skew-symmetric S are i times those of the Hermitian -iS: real and orthonormal.
    frequencies, vectors = torch.linalg.eigh(-1j * skew.to(torch.complex128))
    half = frequencies > 0.0
    frequencies = frequencies[half].repeat(blocks)
    vectors = torch.kron(torch.eye(blocks, dtype=vectors.dtype), vectors[:, half])
    return torch.complex(torch.full_like(frequencies, -0.5), frequencies), vectors


def s4d_eigenvalues(states: int, spectrum: Spectrum) -> Tensor:
    """Eigenvalues of a diagonal state-space layer (Gu et al., NeurIPS 2022, section 4).

    For ``n = 0 .. N-1``. ``"legs"``: those of HiPPO-LegS's normal part. ``"lin"``: ``-1/2 + i pi n``.
    ``"inv"``: ``-1/2 + i (M / pi) (M / (2n + 1) - 1)`` with the full size ``M = 2N``.

    Returns:
        complex128 ``(states,)``.

    Raises:
        ValueError: If the spectrum is unknown.
    """
    if spectrum == "legs":
        return legs_modes(states)[0]
    n = torch.arange(states, dtype=torch.float64)
    if spectrum == "lin":
        frequencies = math.pi * n
    elif spectrum == "inv":
        frequencies = (2 * states / math.pi) * (2 * states / (2 * n + 1) - 1)
    else:
        raise ValueError(f"spectrum is {spectrum!r}; choose one of {', '.join(get_args(Spectrum))}")
    return torch.complex(torch.full_like(n, -0.5), frequencies)
