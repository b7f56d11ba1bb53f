"""The residual block of the paper, around any state-space layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressm.layers import StateSpaceLayer
from compressm.models.pointwise import gate_dropout_residual, gelu_dropout


class MaskedBatchNorm(nn.Module):
    """Batch normalisation over batch and time, without affine part, with padding left out of its statistics.

    Args:
        num_features: Channels ``H``.
        momentum: Weight of the newest batch in the running statistics.
        eps: Added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise ``x`` ``(batch, L, H)`` or ``(batch, H)``.

        Args:
            x: Activations.
            mask: ``(batch, L)``, true where an entry is data; padding is passed on as zero.
        """
        rows = x if mask is None else x[mask]
        normalised = F.batch_norm(
            rows.reshape(-1, x.shape[-1]),
            self.running_mean,
            self.running_var,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )
        if mask is None:
            return normalised.view_as(x)
        return torch.zeros_like(x).masked_scatter(mask[..., None], normalised.to(x.dtype))


class Block(nn.Module):
    """Batch norm, state-space layer, GELU, dropout, GLU, dropout, residual (CompreSSM's block).

    Args:
        mixer: The state-space layer, ``(batch, L, H)`` to ``(batch, L, H)``.
        model_dim: Channels ``H``.
        dropout: Probability of zeroing an activation, drawn for each element on its own.
    """

    def __init__(self, mixer: StateSpaceLayer, model_dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = MaskedBatchNorm(model_dim)
        self.mixer = mixer
        self.glu = nn.Linear(model_dim, 2 * model_dim)
        self.dropout = dropout

    def forward(
        self, x: Tensor, state: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map ``x`` ``(batch, L, H)`` to the same shape and the layer's last state."""
        y, state = self.mixer(self.norm(x, mask), state)
        return self._feed(x, y), state

    def step(self, x_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step ``(batch, H)``; only in evaluation mode, where the norm needs no batch."""
        y, state = self.mixer.step(self.norm(x_k), state)
        return self._feed(x_k, y), state

    def _feed(self, x: Tensor, y: Tensor) -> Tensor:
        """GELU, dropout, GLU, dropout, residual."""
        p = self.dropout if self.training else 0.0
        hidden = gelu_dropout(y, p)
        # The two halves of the GLU apart: each is contiguous, where the halves of one product are not.
        (value, gate), (value_bias, gate_bias) = self.glu.weight.chunk(2), self.glu.bias.chunk(2)
        a, b = F.linear(hidden, value, value_bias), F.linear(hidden, gate, gate_bias)
        return gate_dropout_residual(x, a, b, p)
