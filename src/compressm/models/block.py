"""The residual block of the paper, around any state-space layer."""

from torch import Tensor, nn

from compressm.layers import StateSpaceLayer
from compressm.layers.modal import ModalLayer
from compressm.models.fused_block import BlockOperands, fused_block, serves
from compressm.models.norm import MaskedBatchNorm
from compressm.models.pointwise import gelu_dropout, glu_dropout_residual
from compressm.scan.runtime.tracing import bare


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
        if state is None and not final_state:
            out = self._fused(x, mask)
            if out is not None:
                return out, x.new_empty(0)
        y, state = self.mixer(self.norm(x, mask), state, final_state=final_state)
        return self._feed(x, y), state

    def _fused(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """Outputs for ``x``, if the block's parts are quicker inside one another and nothing watches them."""
        norm, mixer, glu = self.norm, self.mixer, self.glu
        if not (self.training and norm.training and x.ndim == 3):
            return None
        if not (bare(norm, MaskedBatchNorm) and type(glu) is nn.Linear and bare(mixer, type(mixer))):
            return None
        if not isinstance(mixer, ModalLayer) or type(mixer).forward is not ModalLayer.forward:
            return None
        if mixer.bidirectional or not x.shape[-1] == mixer.input_dim == glu.in_features:
            return None
        if not serves(x, mask, mixer.state_dim, *mixer.parameters(), *glu.parameters()):
            return None
        count = x.shape[0] * x.shape[1] if mask is None else int(mask.sum())
        if count < 2:
            return None
        operands = BlockOperands(x, *mixer.system(), mixer.D, glu.weight, glu.bias, mask)
        out, mean, var = fused_block(operands, count, eps=norm.eps, p=self.dropout)
        norm.track(mean, var, count)
        return out

    def step(self, x_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step ``(batch, H)``; only in evaluation mode, where the norm needs no batch."""
        y, state = self.mixer.step(self.norm(x_k), state)
        return self._feed(x_k, y), state

    def _feed(self, x: Tensor, y: Tensor) -> Tensor:
        """GELU, dropout, GLU, dropout, residual."""
        p = self.dropout if self.training else 0.0
        hidden = gelu_dropout(y, p)
        return glu_dropout_residual(x, hidden, self.glu.weight, self.glu.bias, p)
