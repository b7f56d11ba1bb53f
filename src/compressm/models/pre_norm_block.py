"""The residual block that normalises before its layer alone, and the layers that it takes by name."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from compressm.layers import (
    LRU,
    S4D,
    S5,
    DeltaNet,
    GatedDeltaNet,
    GatedLinearAttention,
    Mamba,
    Mamba2,
    RetNet,
    RotationSSM,
    StateSpaceLayer,
)
from compressm.layers.mamba_sequences import LayerOperands
from compressm.models.rms_norm import RMSNorm
from compressm.models.swiglu import swiglu
from compressm.scan.runtime.tracing import bare


class MixerKind(NamedTuple):
    """A state-space layer by name: how to make it, and whether a block needs a feed-forward part after it."""

    make: Callable[..., StateSpaceLayer]
    feed_forward: bool


# Mamba has its gate and its wide inner part in itself; attention and linear recurrences rely on another.
LANGUAGE_MIXERS: dict[str, MixerKind] = {
    "mamba": MixerKind(Mamba, feed_forward=False),
    "mamba2": MixerKind(Mamba2, feed_forward=False),
    "gla": MixerKind(GatedLinearAttention, feed_forward=True),
    "retnet": MixerKind(RetNet, feed_forward=True),
    "deltanet": MixerKind(DeltaNet, feed_forward=True),
    "gated-deltanet": MixerKind(GatedDeltaNet, feed_forward=True),
    "lru": MixerKind(LRU, feed_forward=True),
    "s5": MixerKind(S5, feed_forward=True),
    "s4d": MixerKind(S4D, feed_forward=True),
    "rotation": MixerKind(RotationSSM, feed_forward=True),
}
"""What ``mixer`` of a language model may be. All are causal: a bidirectional layer would see its answer."""


def make_mixer(
    make: Callable[..., StateSpaceLayer],
    mixer: str,
    model_dim: int,
    state_dim: int,
    options: Mapping[str, Any],
) -> StateSpaceLayer:
    """Build a layer, known to the user as ``mixer``.

    Raises:
        TypeError: If the layer does not know an option.
        ValueError: If the layer refuses a value.
    """
    try:
        return make(model_dim, state_dim, **options)
    except TypeError as error:
        raise TypeError(
            f"mixer_options {dict(options)} do not fit the mixer {mixer!r}: {error}; "
            f"see help(compressm.layers.{getattr(make, 'func', make).__name__})"
        ) from error


class FeedForward(nn.Module):
    """``W_down (silu(g) * v)`` with ``(g, v) = W_up x``: SwiGLU (Shazeer 2020, arXiv 2002.05202).

    Args:
        model_dim: Channels ``H``. Inside are ``8 H / 3``, rounded up to a multiple of 8: as many parameters
            as a plain feed-forward part of ``4 H`` has.
    """

    def __init__(self, model_dim: int) -> None:
        super().__init__()
        inner = 8 * -(-model_dim // 3)
        self.up = nn.Linear(model_dim, 2 * inner, bias=False)
        self.down = nn.Linear(inner, model_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., H)`` to the same shape."""
        y: Tensor = self.down(swiglu(self.up(x)))
        return y


class PreNormBlock(nn.Module):
    """``x + mixer(norm(x))``, and after mixers that need it ``x + feed_forward(norm_2(x))``, all pre-norm.

    Args:
        mixer: The state-space layer, ``(batch, L, H)`` to ``(batch, L, H)``.
        model_dim: Channels ``H``.
        feed_forward: Whether to add the second half.
        dropout: Probability of zeroing an activation before it is added to the residual.
        eps: Added to the mean square in the norms.
    """

    def __init__(
        self,
        mixer: StateSpaceLayer,
        model_dim: int,
        *,
        feed_forward: bool = False,
        dropout: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm = RMSNorm(model_dim, eps=eps)
        self.mixer = mixer
        self.norm_2 = RMSNorm(model_dim, eps=eps) if feed_forward else None
        self.feed_forward = FeedForward(model_dim) if feed_forward else None
        self.dropout = dropout

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Map ``x`` ``(batch, L, H)`` to the same shape and the layer's last state, empty if not wanted."""
        dropping, mixer = self.training and self.dropout > 0, self.mixer
        if not dropping and bare(self.norm, RMSNorm) and isinstance(mixer, StateSpaceLayer):
            added = mixer.add_normed(x, self.norm, state, final_state=final_state)
            if added is not None:
                x, state = added
                return self._feed(x), state
        y, state = self.mixer(self.norm(x), state, final_state=final_state)
        return self._add(x, y), state

    def operands(self, x: Tensor) -> LayerOperands | None:
        """What the block reads for ``x`` if it is a norm, Mamba and a sum, and nothing else; None if not."""
        dropping = self.training and self.dropout > 0
        if dropping or self.feed_forward is not None or not isinstance(self.mixer, Mamba):
            return None
        if not (bare(self, PreNormBlock) and bare(self.norm, RMSNorm)):
            return None
        return self.mixer.normed_operands(x, self.norm)

    def step(self, x_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step ``(batch, H)``."""
        y, state = self.mixer.step(self.norm(x_k), state)
        return self._add(x_k, y), state

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        return self._feed(x + F.dropout(y, self.dropout, self.training))

    def _feed(self, x: Tensor) -> Tensor:
        if self.norm_2 is None or self.feed_forward is None:
            return x
        return x + F.dropout(self.feed_forward(self.norm_2(x)), self.dropout, self.training)
