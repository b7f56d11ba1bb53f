"""Delta-rule layers: DeltaNet (arXiv 2406.06484) and Gated DeltaNet (arXiv 2412.06464)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressm.layers.arguments import check_dtype, check_input, check_sequence, check_sizes
from compressm.layers.conv import CausalConv1d, causal_convolution
from compressm.layers.linear_attention import head_value_dim, split_heads
from compressm.layers.norms import RMSNorm
from compressm.layers.single_step import Recurrence, delta_rule_step
from compressm.layers.time_steps import initial_time_step_bias
from compressm.layers.windowed import WindowedLayer
from compressm.scan.delta_rule import delta_rule_scan
from compressm.scan.precision import at_least_float32


class DeltaNet(WindowedLayer):
    r"""Linear attention that corrects its memory: ``S_t = S_{t-1} + β_t k_t (v_t - S_{t-1}^T k_t)^T``.

    Queries, keys and values each pass a short causal convolution and SiLU; queries and keys are scaled to
    length one, ``β_t = sigmoid(W_b u_t)``, and ``y_t = K^-½ S_t^T q_t`` is normalised by its root mean square
    in each head (Yang, Wang, Zhang, Shen and Kim 2024). Whole sequences run in chunks of matrix products.

    Args:
        input_dim: Channels ``H`` in and out.
        state_dim: Key channels ``K`` of every head.
        num_heads: Heads ``M``.
        value_dim: Value channels ``V`` of every head; ``H / M`` if not given.
        conv_kernel: Steps of the convolutions.
        negative_eigenvalues: Let ``β`` reach 2, so that a transition may reflect (Grazzi et al. 2024, arXiv
            2411.12537).
        norm_eps: Added to the mean square in the norm.

    Parameters, with the names and shapes of flash-linear-attention's layers: ``q_proj.weight``,
    ``k_proj.weight`` ``(M K, H)``; ``v_proj.weight`` ``(M V, H)``; ``q_conv1d.weight``, ``k_conv1d.weight``
    ``(M K, 1, conv_kernel)``; ``v_conv1d.weight`` ``(M V, 1, conv_kernel)``; ``b_proj.weight`` ``(M, H)``;
    ``o_norm.weight`` ``(V,)``; ``o_proj.weight`` ``(H, M V)``. The running state is flat; ``split_state``
    gives the window ``(batch, M (2K + V), conv_kernel - 1)`` and the memory ``(batch, M, K, V)``.

    Raises:
        ValueError: If a size is below 1, or the heads do not divide ``H`` and no ``value_dim`` is given.
    """

    def __init__(
        self,
        input_dim: int,
        state_dim: int,
        *,
        num_heads: int = 4,
        value_dim: int | None = None,
        conv_kernel: int = 4,
        negative_eigenvalues: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        value_dim = head_value_dim(self._kind, input_dim, num_heads, value_dim)
        check_sizes(self._kind, state_dim=state_dim, conv_kernel=conv_kernel)
        self.num_heads, self.negative_eigenvalues = num_heads, negative_eigenvalues
        keys, values = num_heads * state_dim, num_heads * value_dim
        self.q_proj = nn.Linear(input_dim, keys, bias=False)
        self.k_proj = nn.Linear(input_dim, keys, bias=False)
        self.v_proj = nn.Linear(input_dim, values, bias=False)
        self.b_proj = nn.Linear(input_dim, num_heads, bias=False)
        self.q_conv1d = CausalConv1d(keys, conv_kernel, bias=False)
        self.k_conv1d = CausalConv1d(keys, conv_kernel, bias=False)
        self.v_conv1d = CausalConv1d(values, conv_kernel, bias=False)
        self.o_norm = RMSNorm(value_dim, eps=norm_eps)
        self.o_proj = nn.Linear(values, input_dim, bias=False)

    @property
    def input_dim(self) -> int:
        """Channels ``H``."""
        return self.q_proj.weight.shape[1]

    @property
    def state_dim(self) -> int:
        """Key channels ``K`` of every head."""
        return self.q_proj.weight.shape[0] // self.num_heads

    @property
    def value_dim(self) -> int:
        """Value channels ``V`` of every head."""
        return self.v_proj.weight.shape[0] // self.num_heads

    @property
    def window_shape(self) -> tuple[int, int]:
        """``(M (2K + V), conv_kernel - 1)``."""
        return self.num_heads * (2 * self.state_dim + self.value_dim), self.q_conv1d.kernel - 1

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        """``(M, K, V)``."""
        return self.num_heads, self.state_dim, self.value_dim

    def log_decay(self, u: Tensor) -> Tensor:
        """Logarithms of the decays ``(batch, L, M)``: zero, nothing fades."""
        return self.q_proj.weight.new_zeros(*u.shape[:2], self.num_heads)

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
        check_sequence(self._kind, u, self.input_dim)
        y, window, S = self._run(u, state, delta_rule_scan)
        return y, self.join_state(window, S) if final_state else u.new_empty(0)

    def step(self, u_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take one input of each sequence ``(batch, H)``; returns the output and the new state.

        Raises:
            TypeError: If the inputs have another type than the parameters.
            ValueError: If the shapes do not fit the layer.
        """
        check_input(self._kind, u_k, self.input_dim)
        y, window, S = self._run(u_k[:, None], state, delta_rule_step)
        return y[:, 0], self.join_state(window, S)

    def _run(self, u: Tensor, state: Tensor | None, recurrence: Recurrence) -> tuple[Tensor, Tensor, Tensor]:
        check_dtype(self._kind, u, self.q_proj.weight.dtype)
        window, S = self._begin(state, u.shape[0])
        projected = torch.cat((self.q_proj(u), self.k_proj(u), self.v_proj(u)), dim=-1)
        filters = torch.cat((self.q_conv1d.weight, self.k_conv1d.weight, self.v_conv1d.weight))
        filtered, window = causal_convolution(projected, window, filters, None, silu=True)
        keys, values = self.q_proj.weight.shape[0], self.v_proj.weight.shape[0]
        q, k, v = (
            split_heads(at_least_float32(x), self.num_heads)
            for x in torch.split(filtered, [keys, keys, values], dim=-1)
        )
        beta = torch.sigmoid(at_least_float32(self.b_proj(u))) * (2 if self.negative_eigenvalues else 1)
        scale = self.state_dim**-0.5
        y, S = recurrence(q, k, v, beta, self.log_decay(u), S, scale=scale, unit=True)
        y = self._finish(y, u).flatten(-2)
        return self.o_proj(y.to(self.o_proj.weight.dtype)), window, S

    def _finish(self, y: Tensor, u: Tensor) -> Tensor:
        """What becomes of outputs ``(batch, L, M, V)`` before their projection."""
        del u
        normed: Tensor = self.o_norm(y)
        return normed

    @property
    def _kind(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return (
            f"input_dim={self.input_dim}, state_dim={self.state_dim}, num_heads={self.num_heads}, "
            f"value_dim={self.value_dim}"
        )


class GatedDeltaNet(DeltaNet):
    r"""DeltaNet that also forgets: ``S_{t-1}`` fades by ``exp(-exp(A_log) softplus(W_a u_t + dt_bias))``.

    The decay is one number for each head, as in Mamba-2, and normalised outputs are gated with
    ``silu(W_g u_t)`` (Yang, Kautz and Hatamizadeh 2024).

    Initialisation: ``exp(A_log)`` uniform in ``[1, 16]``, ``softplus(dt_bias)`` log-uniform in ``[dt_min,
    dt_max]``.

    Args:
        input_dim: Channels ``H`` in and out.
        state_dim: Key channels ``K`` of every head.
        num_heads: Heads ``M``.
        value_dim: Value channels ``V`` of every head; ``H / M`` if not given.
        conv_kernel: Steps of the convolutions.
        negative_eigenvalues: Let ``β`` reach 2.
        dt_min: Smallest initial time step.
        dt_max: Largest initial time step.
        norm_eps: Added to the mean square in the norm.

    Parameters: those of :class:`DeltaNet`, and ``a_proj.weight`` ``(M, H)``; ``A_log``, ``dt_bias`` ``(M,)``;
    ``g_proj.weight`` ``(M V, H)``.

    Raises:
        ValueError: As :class:`DeltaNet`, or if the range of time steps is empty.
    """

    def __init__(
        self,
        input_dim: int,
        state_dim: int,
        *,
        num_heads: int = 4,
        value_dim: int | None = None,
        conv_kernel: int = 4,
        negative_eigenvalues: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(
            input_dim, state_dim, num_heads=num_heads, value_dim=value_dim, conv_kernel=conv_kernel,
            negative_eigenvalues=negative_eigenvalues, norm_eps=norm_eps,
        )  # fmt: skip
        self.a_proj = nn.Linear(input_dim, num_heads, bias=False)
        self.A_log = nn.Parameter(torch.log(1 + 15 * torch.rand(num_heads)))
        self.dt_bias = nn.Parameter(initial_time_step_bias("GatedDeltaNet", num_heads, dt_min, dt_max))
        self.g_proj = nn.Linear(input_dim, self.v_proj.weight.shape[0], bias=False)

    def log_decay(self, u: Tensor) -> Tensor:
        """Logarithms of the decays ``(batch, L, M)``."""
        x = at_least_float32(self.a_proj(u)) + at_least_float32(self.dt_bias)
        # -softplus(x), exact for large x too.
        return torch.exp(at_least_float32(self.A_log)) * F.logsigmoid(-x)

    def _finish(self, y: Tensor, u: Tensor) -> Tensor:
        gate = split_heads(self.g_proj(u), self.num_heads)
        return super()._finish(y, u) * F.silu(gate.to(y.dtype))
