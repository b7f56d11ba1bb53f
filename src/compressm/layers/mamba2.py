"""Mamba-2's layer (Dao and Gu 2024, "Transformers are SSMs", arXiv 2405.21060)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressm.layers.arguments import check_dtype, check_input, check_sequence, check_sizes
from compressm.layers.conv import CausalConv1d
from compressm.layers.norms import GatedRMSNorm
from compressm.layers.single_step import Recurrence, linear_attention_step
from compressm.layers.time_steps import initial_time_step_bias
from compressm.layers.windowed import WindowedLayer
from compressm.scan import linear_attention_scan
from compressm.scan.precision import at_least_float32


class Mamba2(WindowedLayer):
    r"""State-space duality: ``S_t = exp(Δ_t A) S_{t-1} + B_t (Δ_t x_t)^T``, ``y_t = S_t^T C_t + D x_t``.

    A head has ``P`` channels, one negative number ``A = -exp(A_log)`` and a state ``S`` of ``N x P``; the
    heads of a group share ``B_t`` and ``C_t``. These and ``x`` come from one projection through a short
    causal convolution and SiLU; a gated RMS norm stands before the output projection (Dao and Gu 2024,
    section 7).

    Parameters have the names and shapes of ``mamba_ssm.Mamba2`` and of Transformers' ``Mamba2Mixer``, so
    that state dicts move both ways. All sizes are read off them.

    Initialisation: ``A`` uniform in ``[-16, -1]``, ``D`` one, and ``softplus(dt_bias)`` log-uniform in
    ``[dt_min, dt_max]``.

    Args:
        input_dim: Channels ``H`` in and out.
        state_dim: States ``N`` of every inner channel.
        head_dim: Channels ``P`` of a head, a divisor of ``d = expand H``; by default the largest power of two
            up to 64 that divides it.
        num_groups: Groups of heads with their own ``B`` and ``C``, a divisor of the number of heads.
        expand: Inner channels for each outer one.
        conv_kernel: Steps ``K`` of the convolution.
        dt_min: Smallest initial time step.
        dt_max: Largest initial time step.
        dt_limit: Range that time steps are clamped to, always.
        bias: Whether ``in_proj`` and ``out_proj`` have a bias.
        conv_bias: Whether the convolution has one.
        norm_eps: Added to the mean square in the norm.

    Parameters, with ``G`` groups and ``M`` heads: ``in_proj.weight`` ``(2d + 2GN + M, H)``, rows of the gate,
    ``x``, ``B``, ``C``, and ``Δ``; ``conv1d.weight`` ``(d + 2GN, 1, K)``; ``dt_bias``, ``A_log``, ``D``
    ``(M,)``; ``norm.weight`` ``(d,)``; ``out_proj.weight`` ``(H, d)``. The running state is flat;
    ``split_state`` gives the window ``(batch, d + 2GN, K - 1)`` and the states ``(batch, M, N, P)``.

    Raises:
        ValueError: If a size is below 1 or does not divide, or a range of time steps is empty.
    """

    def __init__(
        self,
        input_dim: int,
        state_dim: int = 128,
        *,
        head_dim: int | None = None,
        num_groups: int = 1,
        expand: int = 2,
        conv_kernel: int = 4,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_limit: tuple[float, float] = (0.0, math.inf),
        bias: bool = False,
        conv_bias: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        inner = expand * input_dim
        head = math.gcd(64, inner) if head_dim is None else head_dim
        check_sizes("Mamba2", input_dim=input_dim, state_dim=state_dim, head_dim=head, num_groups=num_groups,
                    expand=expand, conv_kernel=conv_kernel)  # fmt: skip
        if inner % head:
            raise ValueError(f"Mamba2: head_dim is {head}; it must divide expand * input_dim = {inner}")
        heads = inner // head
        if heads % num_groups:
            raise ValueError(f"Mamba2: num_groups is {num_groups}; it must divide the {heads} heads")
        if not 0 <= dt_limit[0] < dt_limit[1]:
            raise ValueError(f"Mamba2: dt_limit is {tuple(dt_limit)}; it must rise from at least 0")
        self.num_groups, self.dt_limit = num_groups, (float(dt_limit[0]), float(dt_limit[1]))
        channels = inner + 2 * num_groups * state_dim
        self.in_proj = nn.Linear(input_dim, inner + channels + heads, bias=bias)
        self.conv1d = CausalConv1d(channels, conv_kernel, bias=conv_bias)
        self.dt_bias = nn.Parameter(initial_time_step_bias("Mamba2", heads, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.log(1 + 15 * torch.rand(heads)))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(inner, groups=num_groups, eps=norm_eps)
        self.out_proj = nn.Linear(inner, input_dim, bias=bias)

    @property
    def input_dim(self) -> int:
        """Channels ``H``."""
        return self.in_proj.weight.shape[1]

    @property
    def inner_dim(self) -> int:
        """Inner channels ``d``."""
        return self.out_proj.weight.shape[1]

    @property
    def num_heads(self) -> int:
        """Heads ``M``."""
        return self.A_log.shape[0]

    @property
    def head_dim(self) -> int:
        """Channels ``P`` of a head."""
        return self.inner_dim // self.num_heads

    @property
    def state_dim(self) -> int:
        """States ``N`` of every inner channel."""
        return (self.conv1d.channels - self.inner_dim) // (2 * self.num_groups)

    @property
    def window_shape(self) -> tuple[int, int]:
        """``(d + 2GN, K - 1)``."""
        return self.conv1d.channels, self.conv1d.kernel - 1

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        """``(M, N, P)``."""
        return self.num_heads, self.state_dim, self.head_dim

    def rates(self) -> Tensor:
        """``A = -exp(A_log)``, ``(M,)``."""
        return -torch.exp(at_least_float32(self.A_log))

    def forward(
        self, u: Tensor, state: Tensor | None = None, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Run whole sequences.

        Args:
            u: Inputs ``(batch, L, H)``.
            state: State before the first input, flat; zero if not given.
            final_state: Whether the state after the last input is wanted.

        Returns:
            Outputs ``(batch, L, H)`` and the state after the last input, empty if it is not wanted. Under
            ``torch.autocast``, or with parameters of half precision, recurrence and state stay in float32.

        Raises:
            TypeError: If the inputs have another type than the parameters.
            ValueError: If the shapes do not fit the layer.
        """
        check_sequence("Mamba2", u, self.input_dim)
        y, window, S = self._run(u, state, linear_attention_scan)
        return y, self.join_state(window, S) if final_state else u.new_empty(0)

    def step(self, u_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take one input of each sequence ``(batch, H)``; returns the output and the new state.

        Raises:
            TypeError: If the inputs have another type than the parameters.
            ValueError: If the shapes do not fit the layer.
        """
        check_input("Mamba2", u_k, self.input_dim)
        y, window, S = self._run(u_k[:, None], state, linear_attention_step)
        return y[:, 0], self.join_state(window, S)

    def _run(self, u: Tensor, state: Tensor | None, recurrence: Recurrence) -> tuple[Tensor, Tensor, Tensor]:
        check_dtype("Mamba2", u, self.in_proj.weight.dtype)
        window, S = self._begin(state, u.shape[0])
        sizes = (self.inner_dim, self.conv1d.channels, self.num_heads)
        z, xBC, dt = self.in_proj(u).split(sizes, dim=-1)
        xBC, window = self.conv1d(xBC, window, silu=True)
        x, B, C = self._heads(at_least_float32(xBC))
        delta = F.softplus(at_least_float32(dt) + at_least_float32(self.dt_bias)).clamp(*self.dt_limit)
        y, S = recurrence(C, B, delta[..., None] * x, delta * self.rates(), S)
        y = self.norm((y + at_least_float32(self.D)[:, None] * x).flatten(-2), z)
        return self.out_proj(y.to(self.out_proj.weight.dtype)), window, S

    def _heads(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` ``(..., M, P)``, ``B`` and ``C`` ``(..., M, N)``, each group's repeated for its heads."""
        groups, N = self.num_groups, self.state_dim
        x, B, C = torch.split(xBC, [self.inner_dim, groups * N, groups * N], dim=-1)
        B, C = (
            part.reshape(*part.shape[:-1], groups, 1, N)
            .expand(*part.shape[:-1], groups, self.num_heads // groups, N)
            .flatten(-3, -2)
            for part in (B, C)
        )
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim), B, C

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return (
            f"input_dim={self.input_dim}, state_dim={self.state_dim}, num_heads={self.num_heads}, "
            f"head_dim={self.head_dim}, num_groups={self.num_groups}"
        )
