"""The residual block of the paper, around any state-space layer."""

from torch import Tensor, nn

from compressm.layers import StateSpaceLayer
from compressm.models.norm import MaskedBatchNorm
from compressm.models.pointwise import gelu_dropout, glu_dropout_residual


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
        self,
        x: Tensor,
        state: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        final_state: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Map ``x`` ``(batch, L, H)`` to the same shape and the layer's last state, empty if not wanted."""
        y, state = self.mixer(self.norm(x, mask), state, final_state=final_state)
        return self._feed(x, y), state

    def step(self, x_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step ``(batch, H)``; only in evaluation mode, where the norm needs no batch."""
        y, state = self.mixer.step(self.norm(x_k), state)
        return self._feed(x_k, y), state

    def _feed(self, x: Tensor, y: Tensor) -> Tensor:
        """GELU, dropout, GLU, dropout, residual."""
        p = self.dropout if self.training else 0.0
        hidden = gelu_dropout(y, p)
        return glu_dropout_residual(x, hidden, self.glu.weight, self.glu.bias, p)
