"""Gated linear attention (Yang, Wang, Shen, Panda and Kim, ICML 2024, arXiv 2312.06635)."""

import torch.nn.functional as F
from torch import Tensor, nn

from compressm.layers.arguments import check_sizes
from compressm.layers.linear_attention import LinearAttentionLayer, split_heads
from compressm.scan.precision import at_least_float32


class GatedLinearAttention(LinearAttentionLayer):
    r"""Linear attention whose key channels fade by gates: ``decay_t = sigmoid(W_2 W_1 u_t + b)^(1/τ)``.

    The gate is a vector, one number for each key channel of each head (Yang et al., section 4.4, with
    ``τ = 16``).

    Args:
        input_dim: Channels ``H`` in and out.
        state_dim: Key channels ``K`` of every head.
        num_heads: Heads ``M``.
        value_dim: Value channels ``V`` of every head; ``H / M`` if not given.
        gate_rank: Rank of the gate's projection.
        gate_normalizer: ``τ``, the larger the slower the fading.
        norm_eps: Added to the mean square in the norm.

    Parameters: those of :class:`~compressm.layers.linear_attention.LinearAttentionLayer`, and
    ``gk_proj.0.weight`` ``(gate_rank, H)``, ``gk_proj.1.weight`` ``(M K, gate_rank)``, ``gk_proj.1.bias``
    ``(M K,)``.

    Raises:
        ValueError: If a size is below 1, the heads do not divide ``H`` and no ``value_dim`` is given, or
            ``gate_normalizer`` is not positive.
    """

    def __init__(
        self,
        input_dim: int,
        state_dim: int,
        *,
        num_heads: int = 4,
        value_dim: int | None = None,
        gate_rank: int = 16,
        gate_normalizer: float = 16.0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(input_dim, state_dim, num_heads=num_heads, value_dim=value_dim, norm_eps=norm_eps)
        check_sizes("GatedLinearAttention", gate_rank=gate_rank)
        if gate_normalizer <= 0:
            raise ValueError(
                f"GatedLinearAttention: gate_normalizer is {gate_normalizer}; it must be positive"
            )
        self.gate_normalizer = gate_normalizer
        self.gk_proj = nn.Sequential(
            nn.Linear(input_dim, gate_rank, bias=False), nn.Linear(gate_rank, num_heads * state_dim)
        )

    def log_decay(self, u: Tensor) -> Tensor:
        """Logarithms of the gates, ``(batch, L, M, K)``."""
        gates = F.logsigmoid(at_least_float32(self.gk_proj(u))) / self.gate_normalizer
        return split_heads(gates, self.num_heads)
