"""The Linear Recurrent Unit (Orvieto et al., ICML 2023), with its states in real pairs."""

import math

import torch
from torch import Tensor, nn

from compressm.layers.arguments import check_ring, check_sizes
from compressm.layers.modal import ModalLayer


class LRU(ModalLayer):
    r"""Linear Recurrent Unit: ``x_k = λ x_{k-1} + γ B u_k``, ``y_k = Re(C x_k) + D u_k``.

    The eigenvalues are stable by construction: ``λ = exp(-exp(nu) + i theta)``. Complex quantities are kept
    as real pairs with a leading dimension of 2 (real part, imaginary part).

    Initialisation (Orvieto et al., section 3): ``λ`` uniform on the ring ``r_min <= |λ| <= r_max`` with phase
    in ``[0, max_phase]``, ``γ = sqrt(1 - |λ|²)``, real and imaginary parts of ``B`` normal with deviation
    ``1/sqrt(2 H)``, of ``C`` with ``1/sqrt(N)``, ``D`` standard normal.

    Args:
        input_dim: Channels ``H`` in and out.
        state_dim: Complex states ``N``.
        r_min: Inner radius of the ring of eigenvalues, in ``[0, r_max)``.
        r_max: Outer radius, in ``(r_min, 1)``.
        max_phase: Largest initial phase, in radians.
        bidirectional: Also run backward in time, with the same ``λ`` and ``B``, and add the two outputs.

    Parameters: ``nu``, ``theta``, ``gamma_log`` of shape ``(N,)``; ``B`` ``(2, N, H)``; ``C`` ``(2, H, N)``,
    or ``(2, 2H, N)`` if bidirectional (forward outputs, then backward ones); ``D`` ``(H,)``.

    Raises:
        ValueError: If a size is below 1 or the ring is not inside the unit circle.
    """

    def __init__(
        self,
        input_dim: int,
        state_dim: int,
        *,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 6.28,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        check_sizes("LRU", input_dim=input_dim, state_dim=state_dim)
        check_ring("LRU", r_min, r_max)
        outputs = 2 * input_dim if bidirectional else input_dim
        squared_radius = r_min**2 + (r_max**2 - r_min**2) * torch.rand(state_dim)
        self.nu = nn.Parameter(torch.log(-0.5 * torch.log(squared_radius)))
        self.theta = nn.Parameter(max_phase * torch.rand(state_dim))
        self.gamma_log = nn.Parameter(0.5 * torch.log1p(-squared_radius))
        self.B = nn.Parameter(torch.randn(2, state_dim, input_dim) / math.sqrt(2 * input_dim))
        self.C = nn.Parameter(torch.randn(2, outputs, state_dim) / math.sqrt(state_dim))
        self.D = nn.Parameter(torch.randn(input_dim))

    @property
    def state_dim(self) -> int:
        """Complex states ``N``."""
        return self.B.shape[1]

    @property
    def bidirectional(self) -> bool:
        """Whether the layer also runs backward in time."""
        return self.C.shape[1] != self.input_dim

    def eigenvalues(self) -> Tensor:
        """The eigenvalues as a real pair ``(2, N)``."""
        magnitude = torch.exp(-torch.exp(self.nu))
        return torch.stack((magnitude * torch.cos(self.theta), magnitude * torch.sin(self.theta)))

    def input_matrix(self) -> Tensor:
        """``γ B``, the input matrix of the recurrence, as a real pair ``(2, N, H)``."""
        return torch.exp(self.gamma_log)[:, None] * self.B

    def output_matrix(self) -> Tensor:
        """``C`` as it is stored, ``(2, H, N)`` or ``(2, 2H, N)``."""
        return self.C
