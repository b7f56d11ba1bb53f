"""Mamba's selective layer (Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling", arXiv 2312.00752)."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressm.layers.arguments import check_dtype, check_input, check_sequence, check_sizes
from compressm.layers.conv import CausalConv1d
from compressm.layers.mamba_inner import InnerOperands, mamba_inner
from compressm.layers.mamba_sequences import LayerOperands, mamba_by_sequences
from compressm.layers.rms_norm import number
from compressm.layers.time_steps import initial_time_step_bias
from compressm.layers.windowed import WindowedLayer
from compressm.scan import selective_scan
from compressm.scan.precision import at_least_float32
from compressm.scan.runtime.tracing import bare, observed
from compressm.scan.selective import as_read


class Mamba(WindowedLayer):
    r"""Selective state space: ``h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t``, ``y_t = C_t h_t + D x_t``.

    Inputs are projected to ``d = expand H`` channels ``x`` and a gate ``z``; ``x`` passes a short causal
    convolution and SiLU, and ``Δ_t``, ``B_t`` and ``C_t`` are linear in what comes out. Each channel has
    ``N`` states of its own, but shares ``B_t`` and ``C_t`` with all others; ``A = -exp(A_log)`` is negative.
    Outputs ``y_t silu(z_t)`` are projected back to ``H`` (Gu and Dao 2023, section 3.4 and algorithm 2).

    Parameters have the names and shapes of ``mamba_ssm.Mamba`` and of Transformers' ``MambaMixer``, so that
    state dicts move both ways. All sizes are read off them.

    Initialisation (section 3.6): ``A`` is -1 to -N in every channel, ``D`` one, ``dt_proj.weight`` uniform in
    ``±dt_rank^-½``, and ``softplus(dt_proj.bias)`` log-uniform in ``[dt_min, dt_max]``.

    Args:
        input_dim: Channels ``H`` in and out.
        state_dim: States ``N`` of every inner channel.
        expand: Inner channels for each outer one.
        conv_kernel: Steps ``K`` of the convolution.
        dt_rank: Rank of the projection to ``Δ``; ``ceil(H / 16)`` if not given.
        dt_min: Smallest initial time step.
        dt_max: Largest initial time step.
        bias: Whether ``in_proj`` and ``out_proj`` have a bias.
        conv_bias: Whether the convolution has one.

    Parameters: ``in_proj.weight`` ``(2d, H)``; ``conv1d.weight`` ``(d, 1, K)``; ``x_proj.weight``
    ``(dt_rank + 2N, d)``, rows of ``Δ``, then ``B``, then ``C``; ``dt_proj.weight`` ``(d, dt_rank)``,
    ``dt_proj.bias`` ``(d,)``; ``A_log`` ``(d, N)``; ``D`` ``(d,)``; ``out_proj.weight`` ``(H, d)``. The
    running state is ``(batch, d (K - 1 + N))``; ``split_state`` gives the window ``(batch, d, K - 1)`` and
    the states ``(batch, d, N)``.

    Raises:
        ValueError: If a size is below 1 or the range of time steps is empty.
    """

    def __init__(
        self,
        input_dim: int,
        state_dim: int = 16,
        *,
        expand: int = 2,
        conv_kernel: int = 4,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        bias: bool = False,
        conv_bias: bool = True,
    ) -> None:
        super().__init__()
        rank = math.ceil(input_dim / 16) if dt_rank is None else dt_rank
        check_sizes("Mamba", input_dim=input_dim, state_dim=state_dim, expand=expand,
                    conv_kernel=conv_kernel, dt_rank=rank)  # fmt: skip
        inner = expand * input_dim
        self.in_proj = nn.Linear(input_dim, 2 * inner, bias=bias)
        self.conv1d = CausalConv1d(inner, conv_kernel, bias=conv_bias)
        self.x_proj = nn.Linear(inner, rank + 2 * state_dim, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        self.dt_proj.bias = nn.Parameter(initial_time_step_bias("Mamba", inner, dt_min, dt_max))
        rates = torch.arange(1, state_dim + 1, dtype=torch.get_default_dtype())
        self.A_log = nn.Parameter(torch.log(rates).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, input_dim, bias=bias)

    @property
    def input_dim(self) -> int:
        """Channels ``H``."""
        return self.in_proj.weight.shape[1]

    @property
    def inner_dim(self) -> int:
        """Inner channels ``d``."""
        return self.A_log.shape[0]

    @property
    def state_dim(self) -> int:
        """States ``N`` of every inner channel."""
        return self.A_log.shape[1]

    @property
    def dt_rank(self) -> int:
        """Rank of the projection to ``Δ``."""
        return self.dt_proj.weight.shape[1]

    @property
    def window_shape(self) -> tuple[int, int]:
        """``(d, K - 1)``."""
        return self.inner_dim, self.conv1d.kernel - 1

    @property
    def memory_shape(self) -> tuple[int, int]:
        """``(d, N)``."""
        return self.inner_dim, self.state_dim

    def rates(self) -> Tensor:
        """``A = -exp(A_log)``, ``(d, N)``."""
        return -torch.exp(at_least_float32(self.A_log))

    def forward(
        self, u: Tensor, state: Tensor | None = None, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Run whole sequences.

        Args:
            u: Inputs ``(batch, L, H)``.
            state: State before the first input, ``(batch, d (K - 1 + N))``; zero if not given.
            final_state: Whether the state after the last input is wanted.

        Returns:
            Outputs ``(batch, L, H)`` and the state after the last input, empty if it is not wanted. Under
            ``torch.autocast``, or with parameters of half precision, recurrence and state stay in float32.

        Raises:
            TypeError: If the inputs have another type than the parameters.
            ValueError: If the shapes do not fit the layer.
        """
        check_sequence("Mamba", u, self.input_dim)
        check_dtype("Mamba", u, self.in_proj.weight.dtype)
        window, h = self._begin(state, u.shape[0])
        whole = self._layer_operands(u, window, h)
        if whole is not None and whole.served:
            y, window, h = mamba_by_sequences(whole, final_state=final_state)
            return y, self.join_state(window, h) if final_state else u.new_empty(0)
        xz = self.in_proj(u)
        operands = self._inner_operands(xz, window, h)
        if operands is not None and operands.served:
            y, window, h = mamba_inner(operands)
            return self._project(y), self.join_state(window, h) if final_state else u.new_empty(0)
        x, z = xz.chunk(2, dim=-1)
        x, window = self.conv1d(x, window, silu=True)
        dt, B, C = self._select(x)
        delta = F.linear(dt, self.dt_proj.weight)
        x, delta, B, C, z = (as_read(part) for part in (x, delta, B, C, z))
        D, bias = at_least_float32(self.D), at_least_float32(self.dt_proj.bias)
        y, h = selective_scan(x, delta, self.rates(), B, C, D, z, bias, delta_softplus=True, state=h)
        return self._project(y), self.join_state(window, h) if final_state else u.new_empty(0)

    def add_normed(
        self, x: Tensor, norm: nn.RMSNorm, state: Tensor | None = None, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor] | None:
        """``x + layer(norm(x))`` and the last state, where that is quicker in one; if not, None."""
        operands = self.normed_operands(x, norm, state)
        if operands is None:
            return None
        y, window, h = mamba_by_sequences(operands, final_state=final_state)
        return y, self.join_state(window, h) if final_state else x.new_empty(0)

    def normed_operands(
        self, x: Tensor, norm: nn.RMSNorm, state: Tensor | None = None
    ) -> LayerOperands | None:
        """What ``x + layer(norm(x))`` reads where it is quicker in one; if it is not, None."""
        if observed() or not bare(self, Mamba) or x.ndim != 3 or norm.eps is None:
            return None
        window, h = self._begin(state, x.shape[0])
        operands = self._layer_operands(x, window, h, norm)
        return None if operands is None or not operands.served else operands

    def step(self, u_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take one input of each sequence, in plain PyTorch operations: what to export for streaming.

        Args:
            u_k: Inputs ``(batch, H)``.
            state: State before them, ``(batch, d (K - 1 + N))``; zero if not given.

        Returns:
            The output ``(batch, H)`` and the new state.

        Raises:
            TypeError: If the inputs have another type than the parameters.
            ValueError: If the shapes do not fit the layer.
        """
        check_input("Mamba", u_k, self.input_dim)
        check_dtype("Mamba", u_k, self.in_proj.weight.dtype)
        window, h = self._begin(state, u_k.shape[0])
        x, z = self.in_proj(u_k).chunk(2, dim=-1)
        filtered, window = self.conv1d(x[:, None], window, silu=True)
        x = filtered[:, 0]
        dt, B, C = self._select(x)
        delta = F.linear(dt, self.dt_proj.weight)
        x, delta, B, C, z = (at_least_float32(part) for part in (x, delta, B, C, z))
        delta = F.softplus(delta + at_least_float32(self.dt_proj.bias))
        made = (delta * x)[..., None] * B[:, None]
        h = made if h is None else torch.exp(delta[..., None] * self.rates()) * h + made
        y = (h * C[:, None]).sum(dim=-1) + at_least_float32(self.D) * x
        return self._project(y * F.silu(z)), self.join_state(window, h)

    def _layer_operands(
        self, u: Tensor, window: Tensor | None, h: Tensor | None, norm: nn.RMSNorm | None = None
    ) -> LayerOperands | None:
        """What the layer as a whole reads, under the same conditions, which hold for its projections, too."""
        inner, before, after = self._inner_operands(u, window, h), self.in_proj, self.out_proj
        if inner is None or not all(bare(p, nn.Linear) and p.bias is None for p in (before, after)):
            return None
        norm_weight, eps = (None, None) if norm is None else (norm.weight, number(norm.eps))
        return LayerOperands(
            u, before.weight, inner.filters, inner.filter_bias, inner.select, inner.dt_weight,
            inner.dt_bias, inner.A_log, inner.D, after.weight, window, h, norm_weight, eps,
        )  # fmt: skip

    def _inner_operands(self, xz: Tensor, window: Tensor | None, h: Tensor | None) -> InnerOperands | None:
        """What the inner part reads, unless somebody has put other modules, or hooks of modules, into it."""
        conv, select, dt = self.conv1d, self.x_proj, self.dt_proj
        biased = cast("Tensor | None", select.bias) is not None
        if biased or not (bare(conv, CausalConv1d) and bare(select, nn.Linear)):
            return None
        return InnerOperands(
            xz, conv.weight, conv.bias, select.weight, dt.weight, dt.bias, self.A_log, self.D, window, h
        )

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What inputs choose: ``Δ`` before its projection, ``(..., dt_rank)``; ``B``, ``C`` ``(..., N)``."""
        dt, B, C = self.x_proj(x).split((self.dt_rank, self.state_dim, self.state_dim), dim=-1)
        return dt, B, C

    def _project(self, y: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(y.device.type):  # which converts by itself
            y = y.to(self.out_proj.weight.dtype)
        projected: Tensor = self.out_proj(y)
        return projected

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"input_dim={self.input_dim}, state_dim={self.state_dim}, inner_dim={self.inner_dim}"
