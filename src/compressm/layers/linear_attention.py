"""What linear attention layers with decay have in common; a layer says how its memory fades."""

from abc import abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from compressm.layers.arguments import check_dtype, check_input, check_sequence, check_sizes, check_state
from compressm.layers.base import StateSpaceLayer
from compressm.layers.norms import RMSNorm
from compressm.layers.single_step import Recurrence, linear_attention_step
from compressm.scan import linear_attention_scan
from compressm.scan.precision import at_least_float32


class LinearAttentionLayer(StateSpaceLayer):
    r"""``S_t = decay_t S_{t-1} + k_t v_t^T``, ``y_t = K^-½ S_t^T q_t`` in each head.

    Queries, keys and values are linear in the inputs. Outputs are normalised by their root mean square in
    each head, gated with SiLU and projected. The state that compression shrinks is the key dimension ``K``,
    which is read off the parameters; the factor ``K^-½`` follows it.

    Args:
        input_dim: Channels ``H`` in and out.
        state_dim: Key channels ``K`` of every head.
        num_heads: Heads ``M``.
        value_dim: Value channels ``V`` of every head; ``H / M`` if not given.
        norm_eps: Added to the mean square in the norm.

    Parameters, with the names and shapes of flash-linear-attention's layers: ``q_proj.weight``,
    ``k_proj.weight`` ``(M K, H)``; ``v_proj.weight``, ``g_proj.weight`` ``(M V, H)``;
    ``g_norm_swish_gate.weight`` ``(V,)``; ``o_proj.weight`` ``(H, M V)``. A running state is
    ``(batch, M, K, V)``.

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
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        value_dim = head_value_dim(self._kind, input_dim, num_heads, value_dim)
        check_sizes(self._kind, input_dim=input_dim, state_dim=state_dim)
        self.num_heads = num_heads
        self.q_proj = nn.Linear(input_dim, num_heads * state_dim, bias=False)
        self.k_proj = nn.Linear(input_dim, num_heads * state_dim, bias=False)
        self.v_proj = nn.Linear(input_dim, num_heads * value_dim, bias=False)
        self.g_proj = nn.Linear(input_dim, num_heads * value_dim, bias=False)
        self.g_norm_swish_gate = RMSNorm(value_dim, eps=norm_eps)
        self.o_proj = nn.Linear(num_heads * value_dim, input_dim, bias=False)

    @abstractmethod
    def log_decay(self, u: Tensor) -> Tensor:
        """Logarithms of decays for inputs ``(batch, L, H)``: ``(batch, L, M)`` or ``(batch, L, M, K)``."""

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

    def forward(
        self, u: Tensor, state: Tensor | None = None, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Run whole sequences.

        Args:
            u: Inputs ``(batch, L, H)``.
            state: State before the first input, ``(batch, M, K, V)``; zero if not given.
            final_state: Whether the state after the last input is wanted.

        Returns:
            Outputs ``(batch, L, H)`` and the state after the last input, empty if it is not wanted. Under
            ``torch.autocast``, or with parameters of half precision, recurrence and state stay in float32.

        Raises:
            TypeError: If the inputs have another type than the parameters.
            ValueError: If the shapes do not fit the layer.
        """
        check_sequence(self._kind, u, self.input_dim)
        y, S = self._run(u, state, linear_attention_scan)
        return y, S if final_state else u.new_empty(0)

    def step(self, u_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take one input of each sequence ``(batch, H)``; returns the output and the new state.

        Raises:
            TypeError: If the inputs have another type than the parameters.
            ValueError: If the shapes do not fit the layer.
        """
        check_input(self._kind, u_k, self.input_dim)
        y, S = self._run(u_k[:, None], state, linear_attention_step)
        return y[:, 0], S

    def _run(self, u: Tensor, state: Tensor | None, recurrence: Recurrence) -> tuple[Tensor, Tensor]:
        check_dtype(self._kind, u, self.q_proj.weight.dtype)
        check_state(self._kind, state, (u.shape[0], self.num_heads, self.state_dim, self.value_dim))
        q, k, v, gate = (
            split_heads(at_least_float32(project(u)), self.num_heads)
            for project in (self.q_proj, self.k_proj, self.v_proj, self.g_proj)
        )
        y, S = recurrence(q, k, v, self.log_decay(u), state, scale=self.state_dim**-0.5)
        y = self.g_norm_swish_gate(y) * F.silu(gate)
        return self.o_proj(y.flatten(-2).to(self.o_proj.weight.dtype)), S

    @property
    def _kind(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return (
            f"input_dim={self.input_dim}, state_dim={self.state_dim}, num_heads={self.num_heads}, "
            f"value_dim={self.value_dim}"
        )


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(..., heads * channels)`` as ``(..., heads, channels)``."""
    return x.reshape(*x.shape[:-1], heads, -1)


def head_value_dim(layer: str, input_dim: int, num_heads: int, value_dim: int | None) -> int:
    """``value_dim``, or what makes all heads together as wide as the inputs.

    Raises:
        ValueError: If a size is below 1 or that is no integer.
    """
    check_sizes(layer, input_dim=input_dim, num_heads=num_heads)
    if value_dim is None:
        if input_dim % num_heads:
            raise ValueError(
                f"{layer}: num_heads is {num_heads}, which does not divide input_dim = {input_dim}; "
                "choose a divisor, or give value_dim"
            )
        value_dim = input_dim // num_heads
    check_sizes(layer, value_dim=value_dim)
    return value_dim
