"""S5 (Smith, Warrington and Linderman, ICLR 2023): one continuous-time system for all channels."""

import math

import torch
from torch import Tensor, nn

from compressm.layers.arguments import check_sizes
from compressm.layers.discretization import Discrete, discretize, initial_log_dt
from compressm.layers.hippo import legs_modes
from compressm.layers.modal import ModalLayer


class S5(ModalLayer):
    r"""S5: ``x' = A x + B u``, ``y = 2 Re(C x) + D u``, by zero-order hold with a learned step per state.

    ``A = -exp(log_A_real) + i A_imag`` is diagonal and stable by construction. Only half of each conjugate
    pair is kept, which the 2 in the output makes up for: ``N`` states here are ``2N`` of the S5 paper.

    Initialisation: ``A`` holds the eigenvalues of the normal part of HiPPO-LegS, in ``blocks`` blocks, and a
    real ``B`` (normal, deviation ``1/sqrt(H)``) and ``C`` (``1/sqrt(2N)``) are turned into the coordinates
    of its eigenvectors; ``D`` standard normal; steps log-uniform in ``[dt_min, dt_max]``.

    Args:
        input_dim: Channels ``H`` in and out.
        state_dim: Complex states ``N``.
        blocks: Diagonal blocks of the initial matrix; must divide ``state_dim``.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        bidirectional: Also run backward in time, with the same ``A`` and ``B``, and add the two outputs.

    Parameters: ``log_A_real``, ``A_imag``, ``log_dt`` of shape ``(N,)``; ``B`` ``(2, N, H)``; ``C``
    ``(2, H, N)``, or ``(2, 2H, N)`` if bidirectional (forward outputs, then backward ones); ``D`` ``(H,)``.

    Raises:
        ValueError: If a size is below 1, ``blocks`` does not divide the states, or the range of steps is
            empty.
    """

    def __init__(
        self,
        input_dim: int,
        state_dim: int,
        *,
        blocks: int = 1,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        check_sizes("S5", input_dim=input_dim, state_dim=state_dim, blocks=blocks)
        outputs = 2 * input_dim if bidirectional else input_dim
        A, V = legs_modes(state_dim, blocks)
        B = V.mH @ torch.randn(2 * state_dim, input_dim, dtype=torch.float64).to(V.dtype)
        C = torch.randn(outputs, 2 * state_dim, dtype=torch.float64).to(V.dtype) @ V
        dtype = torch.get_default_dtype()
        self.log_A_real = nn.Parameter(torch.log(-A.real).to(dtype))
        self.A_imag = nn.Parameter(A.imag.to(dtype))
        self.log_dt = nn.Parameter(initial_log_dt("S5", state_dim, dt_min, dt_max))
        self.B = nn.Parameter((torch.stack((B.real, B.imag)) / math.sqrt(input_dim)).to(dtype))
        self.C = nn.Parameter((torch.stack((C.real, C.imag)) / math.sqrt(2 * state_dim)).to(dtype))
        self.D = nn.Parameter(torch.randn(input_dim))

    @property
    def state_dim(self) -> int:
        """Complex states ``N``."""
        return self.B.shape[1]

    @property
    def bidirectional(self) -> bool:
        """Whether the layer also runs backward in time."""
        return self.C.shape[1] != self.input_dim

    def discrete(self) -> Discrete:
        """``log λ`` and the factor ``f`` of ``B``, float64 ``(N,)`` each."""
        return discretize(self.log_A_real, self.A_imag, self.log_dt, "zoh")

    def eigenvalues(self) -> Tensor:
        """``λ = exp(A dt)`` as a real pair ``(2, N)``."""
        return self.discrete().eigenvalues().to(self.B.dtype)

    def input_matrix(self) -> Tensor:
        """``(λ - 1)/A B`` as a real pair ``(2, N, H)``."""
        discrete = self.discrete()
        re, im = (part.to(self.B.dtype)[:, None] for part in (discrete.factor_re, discrete.factor_im))
        B_re, B_im = self.B
        return torch.stack((re * B_re - im * B_im, re * B_im + im * B_re))

    def output_matrix(self) -> Tensor:
        """``2 C``, ``(2, H, N)`` or ``(2, 2H, N)``."""
        return 2 * self.C
