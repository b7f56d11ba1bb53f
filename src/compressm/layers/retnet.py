"""Retention with a fixed decay in each head (Sun et al. 2023, "Retentive Network", arXiv 2307.08621)."""

import torch
from torch import Tensor

from compressm.layers.linear_attention import LinearAttentionLayer
from compressm.scan.precision import at_least_float32


class RetNet(LinearAttentionLayer):
    r"""Linear attention with decays ``1 - 2^(-5-m)`` in heads ``m = 0..M-1`` (Sun et al., equation 8).

    Queries and keys carry no rotary phase: position enters by the decay alone. So a head commutes with every
    change of basis of its key dimension, and its balanced truncation is exact. Weights that were trained with
    rotary phases have the same shapes, but do not mean the same here.

    Arguments and parameters are those of :class:`~compressm.layers.linear_attention.LinearAttentionLayer`.
    """

    def log_decay(self, u: Tensor) -> Tensor:
        """Logarithms of the decays, the same at every step: ``(batch, L, M)``."""
        weight = self.q_proj.weight
        head = at_least_float32(torch.arange(self.num_heads, device=weight.device, dtype=weight.dtype))
        return torch.log1p(-torch.exp2(-5 - head)).expand(*u.shape[:2], self.num_heads)
