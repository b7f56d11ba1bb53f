"""Rotation blocks: the LRU's real form, as the literature on Hankel-norm regularisation writes it."""

import math

import torch
from torch import Tensor, nn

from compressm.layers.arguments import check_ring, check_sizes
from compressm.layers.modal import ModalLayer


class RotationSSM(ModalLayer):
    r"""``N`` damped rotations of the plane: ``x_k = ρ R(θ) x_{k-1} + B u_k``, ``y_k = C x_k + D u_k``.

    Everything is real: the state has ``2N`` entries, block ``n`` of the state matrix is ``ρ_n [[cos θ_n,
    -sin θ_n], [sin θ_n, cos θ_n]]``, with ``ρ = sigmoid(rho_logit)`` stable by construction. The first
    coordinates of all blocks come first, then the second ones: block ``n`` is entries ``n`` and ``N + n``.
    Read as ``x_n + i x_{N+n}`` this is one complex mode ``ρ e^{iθ}``, which is how it is run.

    Initialisation: ``ρ e^{iθ}`` uniform on the ring ``r_min <= ρ <= r_max`` with ``θ`` in ``[0, max_phase]``;
    ``B`` normal with deviation ``sqrt((1 - ρ²)/(2H))``, so that white noise drives every state to the same
    size; ``C`` with ``1/sqrt(N)``; ``D`` standard normal.

    Args:
        input_dim: Channels ``H`` in and out.
        state_dim: Blocks ``N``.
        r_min: Inner radius of the ring, in ``[0, r_max)``.
        r_max: Outer radius, in ``(r_min, 1)``.
        max_phase: Largest initial angle, in radians.

    Parameters: ``rho_logit``, ``theta`` of shape ``(N,)``; ``B`` ``(2N, H)``; ``C`` ``(H, 2N)``; ``D``
    ``(H,)``. A running state is ``(batch, 2, N)``: first and second coordinates.

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
        max_phase: float = math.pi,
    ) -> None:
        super().__init__()
        check_sizes("RotationSSM", input_dim=input_dim, state_dim=state_dim)
        check_ring("RotationSSM", r_min, r_max)
        squared_radius = r_min**2 + (r_max**2 - r_min**2) * torch.rand(state_dim)
        # A radius of exactly 0 has no logit; the smallest one here is far below what a state remembers.
        radius = squared_radius.sqrt().clamp(min=1e-6)
        gamma = torch.sqrt(1 - squared_radius).repeat(2)[:, None]
        self.rho_logit = nn.Parameter(torch.logit(radius))
        self.theta = nn.Parameter(max_phase * torch.rand(state_dim))
        self.B = nn.Parameter(gamma * torch.randn(2 * state_dim, input_dim) / math.sqrt(2 * input_dim))
        self.C = nn.Parameter(torch.randn(input_dim, 2 * state_dim) / math.sqrt(state_dim))
        self.D = nn.Parameter(torch.randn(input_dim))

    @property
    def state_dim(self) -> int:
        """Blocks ``N``, each a complex state."""
        return self.theta.shape[0]

    def eigenvalues(self) -> Tensor:
        """``ρ e^{iθ}`` as a real pair ``(2, N)``."""
        radius = torch.sigmoid(self.rho_logit)
        return torch.stack((radius * torch.cos(self.theta), radius * torch.sin(self.theta)))

    def input_matrix(self) -> Tensor:
        """``B`` as a pair ``(2, N, H)``: rows of first coordinates, rows of second ones."""
        return self.B.view(2, self.state_dim, self.input_dim)

    def output_matrix(self) -> Tensor:
        """``C`` as a pair ``(2, H, N)``: ``c_1 x_1 + c_2 x_2 = Re((c_1 - i c_2)(x_1 + i x_2))``."""
        first, second = self.C.tensor_split(2, dim=1)
        return torch.stack((first, -second))
