"""The Linear Recurrent Unit (Orvieto et al., ICML 2023), with its states in real pairs."""

import math

import torch
from torch import Tensor, nn

from compressm.layers.base import StateSpaceLayer
from compressm.scan import lti_scan


class LRU(StateSpaceLayer):
    r"""Linear Recurrent Unit: ``x_k = λ x_{k-1} + γ B u_k``, ``y_k = Re(C x_k) + D u_k``.

    The eigenvalues are stable by construction: ``λ = exp(-exp(nu) + i theta)``. Complex quantities are kept
    as real pairs with a leading dimension of 2 (real part, imaginary part), so that projections are single
    real matrix products and nothing complex meets autocast, ``torch.compile`` or a checkpoint.

    Initialisation (Orvieto et al., section 3): ``λ`` uniform on the ring ``r_min <= |λ| <= r_max`` with phase
    in ``[0, max_phase]``, ``γ = sqrt(1 - |λ|²)``, real and imaginary parts of ``B`` normal with deviation
    ``1/sqrt(2 H)``, of ``C`` with ``1/sqrt(N)``, ``D`` standard normal.

    Args:
        input_dim: Channels ``H`` in and out.
        state_dim: Complex states ``N``.
        r_min: Inner radius of the ring of eigenvalues, in ``[0, r_max)``.
        r_max: Outer radius, in ``(r_min, 1)``.
        max_phase: Largest initial phase, in radians.

    Parameters: ``nu``, ``theta``, ``gamma_log`` of shape ``(N,)``; ``B`` ``(2, N, H)``; ``C`` ``(2, H, N)``;
    ``D`` ``(H,)``.

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
    ) -> None:
        super().__init__()
        for name, size in (("input_dim", input_dim), ("state_dim", state_dim)):
            if size < 1:
                raise ValueError(f"LRU: {name} is {size}; it must be at least 1")
        if not 0 <= r_min < r_max < 1:
            raise ValueError(f"LRU: the ring [{r_min}, {r_max}] must satisfy 0 <= r_min < r_max < 1")
        squared_radius = r_min**2 + (r_max**2 - r_min**2) * torch.rand(state_dim)
        self.nu = nn.Parameter(torch.log(-0.5 * torch.log(squared_radius)))
        self.theta = nn.Parameter(max_phase * torch.rand(state_dim))
        self.gamma_log = nn.Parameter(0.5 * torch.log1p(-squared_radius))
        self.B = nn.Parameter(torch.randn(2, state_dim, input_dim) / math.sqrt(2 * input_dim))
        self.C = nn.Parameter(torch.randn(2, input_dim, state_dim) / math.sqrt(state_dim))
        self.D = nn.Parameter(torch.randn(input_dim))

    # Sizes are read off the parameters, which a cut replaces: a stored copy could only disagree.
    @property
    def input_dim(self) -> int:
        """Channels ``H``."""
        return self.B.shape[2]

    @property
    def state_dim(self) -> int:
        """Complex states ``N``."""
        return self.B.shape[1]

    def eigenvalues(self) -> Tensor:
        """The eigenvalues as a real pair ``(2, N)``."""
        magnitude = torch.exp(-torch.exp(self.nu))
        return torch.stack((magnitude * torch.cos(self.theta), magnitude * torch.sin(self.theta)))

    def input_matrix(self) -> Tensor:
        """``γ B``, the input matrix of the recurrence, as a real pair ``(2, N, H)``."""
        return torch.exp(self.gamma_log)[:, None] * self.B

    def forward(self, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run a whole sequence.

        Args:
            u: Inputs ``(batch, L, H)``.
            state: State before the first input, ``(batch, 2, N)``; zero if not given.

        Returns:
            Outputs ``(batch, L, H)`` and the state after the last input ``(batch, 2, N)``.

        Raises:
            ValueError: If the shapes do not fit the layer.
        """
        if u.dim() != 3 or u.shape[2] != self.input_dim:
            raise ValueError(
                f"LRU: inputs have shape {tuple(u.shape)}; expected (batch, L, {self.input_dim})"
            )
        self._check_state(u.shape[0], state)
        y, state = lti_scan(u, self.eigenvalues(), self.input_matrix(), self.C, state)
        return torch.addcmul(y, u, self.D), state

    def step(self, u_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take one input, for streaming.

        Args:
            u_k: One input for each sequence, ``(batch, H)``.
            state: State before it, ``(batch, 2, N)``; zero if not given.

        Returns:
            The output ``(batch, H)`` and the state after it ``(batch, 2, N)``.

        Raises:
            ValueError: If the shapes do not fit the layer.
        """
        if u_k.dim() != 2 or u_k.shape[1] != self.input_dim:
            raise ValueError(f"LRU: input has shape {tuple(u_k.shape)}; expected (batch, {self.input_dim})")
        self._check_state(u_k.shape[0], state)
        x_re, x_im = torch.einsum("bh,cnh->cbn", u_k, self.input_matrix())
        if state is not None:
            a_re, a_im = self.eigenvalues()
            s_re, s_im = state[:, 0], state[:, 1]
            x_re, x_im = x_re + a_re * s_re - a_im * s_im, x_im + a_re * s_im + a_im * s_re
        y = x_re @ self.C[0].T - x_im @ self.C[1].T + self.D * u_k
        return y, torch.stack((x_re, x_im), dim=1)

    def _check_state(self, batch: int, state: Tensor | None) -> None:
        expected = (batch, 2, self.state_dim)
        if state is not None and state.shape != expected:
            raise ValueError(
                f"LRU: the state has shape {tuple(state.shape)}; expected {expected}. "
                "A state from before a cut does not fit afterwards: start the sequence anew"
            )

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"input_dim={self.input_dim}, state_dim={self.state_dim}"
