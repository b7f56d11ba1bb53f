"""S4D (Gu, Gupta, Goel and Ré, NeurIPS 2022): an independent diagonal system for every channel."""

import math

import torch
from torch import Tensor, nn

from compressm.layers.arguments import check_dtype, check_input, check_sequence, check_sizes, check_state
from compressm.layers.base import StateSpaceLayer
from compressm.layers.discretization import (
    Discrete,
    Discretization,
    check_discretization,
    discretize,
    initial_log_dt,
)
from compressm.layers.exponential_sums import PowerTables
from compressm.layers.hippo import Spectrum, s4d_eigenvalues
from compressm.layers.skip import add_skip
from compressm.scan.lti.convolution import transform_size


class S4D(StateSpaceLayer):
    r"""``H`` single-input single-output systems ``x' = A x + u``, ``y = 2 Re(C x) + D u``, one per channel.

    ``A = -exp(log_A_real) + i A_imag`` is diagonal and stable by construction, the input matrix is one (it
    would only scale ``C``), and every channel has its own step ``exp(log_dt)``. Only half of each conjugate
    pair is kept: ``N`` states here are the ``N/2`` complex ones of a state size ``N`` in the S4D paper.
    Whole sequences are convolved with the channels' kernels; :meth:`step` runs the recurrence.

    Channels may have different numbers of states: ``channel_states`` says how many of the ``N`` stored modes
    each channel uses, the first ones. The others are inert: no input reaches them, nothing leaves them, and
    all their gradients are exactly zero.

    Initialisation: ``A`` from ``spectrum`` in every channel, ``C`` complex standard normal, ``D`` standard
    normal, steps log-uniform in ``[dt_min, dt_max]``.

    Args:
        input_dim: Channels ``H``.
        state_dim: Complex states ``N`` of every channel.
        spectrum: Initial eigenvalues: "legs", "lin" or "inv", see
            :func:`compressm.layers.hippo.s4d_eigenvalues`.
        discretization: "zoh" or "bilinear".
        dt_min: Smallest initial step.
        dt_max: Largest initial step.

    Parameters: ``log_A_real``, ``A_imag`` ``(H, N)``; ``C`` ``(2, H, N)``; ``log_dt``, ``D`` ``(H,)``.
    Buffer: ``channel_states`` ``(H,)``, int64. A running state is ``(batch, 2, H, N)``.

    Raises:
        ValueError: If a size is below 1, a choice is unknown, or the range of steps is empty.
    """

    channel_states: Tensor

    def __init__(
        self,
        input_dim: int,
        state_dim: int,
        *,
        spectrum: Spectrum = "legs",
        discretization: Discretization = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        check_sizes("S4D", input_dim=input_dim, state_dim=state_dim)
        check_discretization("S4D", discretization)
        self.discretization: Discretization = discretization
        A = s4d_eigenvalues(state_dim, spectrum).expand(input_dim, state_dim)
        dtype = torch.get_default_dtype()
        self.log_A_real = nn.Parameter(torch.log(-A.real).to(dtype))
        self.A_imag = nn.Parameter(A.imag.to(dtype, copy=True))
        self.log_dt = nn.Parameter(initial_log_dt("S4D", input_dim, dt_min, dt_max))
        self.C = nn.Parameter(torch.randn(2, input_dim, state_dim) / math.sqrt(2))
        self.D = nn.Parameter(torch.randn(input_dim))
        self.register_buffer("channel_states", torch.full((input_dim,), state_dim))

    @property
    def input_dim(self) -> int:
        """Channels ``H``."""
        return self.D.shape[0]

    @property
    def state_dim(self) -> int:
        """Complex states ``N`` that are stored for every channel."""
        return self.C.shape[2]

    def discrete(self) -> Discrete:
        """``log λ`` and the factor ``f`` of the input, float64 ``(H, N)``; ``f`` is 0 for inert modes."""
        discrete = discretize(self.log_A_real, self.A_imag, self.log_dt[:, None], self.discretization)
        used = torch.arange(self.state_dim, device=self.C.device) < self.channel_states[:, None]
        return discrete._replace(
            factor_re=torch.where(used, discrete.factor_re, 0.0),
            factor_im=torch.where(used, discrete.factor_im, 0.0),
        )

    def forward(
        self, u: Tensor, state: Tensor | None = None, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Run a whole sequence.

        Args:
            u: Inputs ``(batch, L, H)``.
            state: State before the first input, ``(batch, 2, H, N)``; zero if not given.
            final_state: Whether the state after the last input is wanted.

        Returns:
            Outputs ``(batch, L, H)`` and the state after the last input ``(batch, 2, H, N)``, empty if it is
            not wanted. Under ``torch.autocast`` both are float32: sums of exponentials do not survive half
            precision.

        Raises:
            TypeError: If the inputs have another type than the parameters.
            ValueError: If the shapes do not fit the layer.
        """
        check_sequence("S4D", u, self.input_dim)
        check_dtype("S4D", u, self.C.dtype)
        check_state("S4D", state, (u.shape[0], 2, self.input_dim, self.state_dim))
        with torch.autocast(u.device.type, enabled=False):
            start = None if state is None else state.to(self.C.dtype)
            return self._run(u.to(self.C.dtype), start, final_state=final_state)

    def _run(self, u: Tensor, state: Tensor | None, *, final_state: bool) -> tuple[Tensor, Tensor]:
        length, dtype = u.shape[1], self.C.dtype
        discrete = self.discrete()
        tables = PowerTables.of(discrete.log_modulus, discrete.angle, length, dtype)
        C, factor = 2 * self.C.double(), torch.stack((discrete.factor_re, discrete.factor_im))
        by_channel = u.permute(2, 0, 1).contiguous()
        y = _convolve(by_channel, tables.sums(_product(C, factor)))
        start = None if state is None else self._silenced(state).movedim(1, 0)
        if start is not None:
            y = y + tables.sums(_product(_product(C, discrete.eigenvalues())[:, None], start.double()))
        y = add_skip(y.permute(1, 2, 0).contiguous(), u, self.D)
        if not final_state:
            return y, u.new_empty(0)
        last = _product(factor.to(dtype)[:, None], tables.moments(by_channel))
        if start is not None:
            last = last + _product(_power(discrete, length).to(dtype)[:, None], start)
        return y, last.movedim(0, 1)

    def step(self, u_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take one input, for streaming.

        Args:
            u_k: One input for each sequence, ``(batch, H)``.
            state: State before it, ``(batch, 2, H, N)``; zero if not given.

        Returns:
            The output ``(batch, H)`` and the state after it ``(batch, 2, H, N)``.

        Raises:
            ValueError: If the shapes do not fit the layer.
        """
        check_input("S4D", u_k, self.input_dim)
        check_state("S4D", state, (u_k.shape[0], 2, self.input_dim, self.state_dim))
        discrete = self.discrete()
        factor = torch.stack((discrete.factor_re, discrete.factor_im)).to(self.C.dtype)
        x = factor[:, None] * u_k[:, :, None]
        if state is not None:
            eigenvalues = discrete.eigenvalues().to(self.C.dtype)
            x = x + _product(eigenvalues[:, None], self._silenced(state).movedim(1, 0))
        y = 2 * (self.C[0] * x[0] - self.C[1] * x[1]).sum(dim=-1) + self.D * u_k
        return y, x.movedim(0, 1)

    def _silenced(self, state: Tensor) -> Tensor:
        """The state with inert modes at zero, whatever was given."""
        used = torch.arange(self.state_dim, device=state.device) < self.channel_states[:, None]
        return torch.where(used, state, torch.zeros_like(state))

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return (
            f"input_dim={self.input_dim}, state_dim={self.state_dim}, discretization={self.discretization!r}"
        )


def _convolve(signal: Tensor, kernel: Tensor) -> Tensor:
    """Causal convolution along the last dimension: ``(H, B, L)`` with ``(H, L)``."""
    length = signal.shape[-1]
    size = transform_size(2 * length - 1)
    spectrum = torch.fft.rfft(signal, n=size) * torch.fft.rfft(kernel, n=size)[:, None]
    result: Tensor = torch.fft.irfft(spectrum, n=size)[..., :length]
    return result


def _power(discrete: Discrete, exponent: int) -> Tensor:
    """``λ^exponent`` as a pair."""
    log_modulus, angle = exponent * discrete.log_modulus, exponent * discrete.angle
    return discrete._replace(log_modulus=log_modulus, angle=angle).eigenvalues()


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Complex product of pairs."""
    return torch.stack((x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]))
