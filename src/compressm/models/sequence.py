"""What the models of whole sequences share: a linear encoder and a stack of state-space blocks."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from compressm.layers import LRU, S4D, S5, RotationSSM, StateSpaceLayer
from compressm.models.block import Block
from compressm.models.pre_norm_block import LANGUAGE_MIXERS, PreNormBlock, make_mixer
from compressm.models.rms_norm import RMSNorm

TIME_INVARIANT: dict[str, Callable[..., StateSpaceLayer]] = {
    "lru": LRU,
    "lru-bi": partial(LRU, bidirectional=True),
    "s5": S5,
    "s5-bi": partial(S5, bidirectional=True),
    "s4d": S4D,
    "rotation": RotationSSM,
}
"""Layers in the paper's block: ``name -> (model_dim, state_dim) -> layer``."""

MIXERS = (*TIME_INVARIANT, *(name for name in LANGUAGE_MIXERS if name not in TIME_INVARIANT))
"""What ``mixer`` may be. The others are selective or have a matrix state; they keep the block that they are
known with, :class:`~compressm.models.pre_norm_block.PreNormBlock`."""

BIDIRECTIONAL = ("lru-bi", "s5-bi")
"""Those of :data:`MIXERS` whose outputs depend on later inputs."""


class SequenceModel(nn.Module):
    """Linear encoder and ``num_layers`` blocks; subclasses add a ``head``.

    Blocks of Mamba and its kin normalise before the layer alone, so that an RMS norm follows the last.

    Args:
        input_dim: Channels of the data.
        num_layers: Blocks.
        model_dim: Channels ``H`` inside.
        state_dim: States ``N`` of every layer, or one number for each (a model after cuts has its own sizes).
        mixer: The state-space layer, one of :data:`MIXERS`.
        dropout: Probability of dropout in the blocks.
        mixer_options: More keyword arguments of the layers, such as ``{"expand": 4}``; the same for all.

    Raises:
        TypeError: If the layer does not know an option.
        ValueError: If the mixer is unknown or ``state_dim`` has another length than ``num_layers``.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        num_layers: int,
        model_dim: int,
        state_dim: int | Sequence[int],
        mixer: str,
        dropout: float,
        mixer_options: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        if mixer not in MIXERS:
            raise ValueError(f"mixer is {mixer!r}; choose one of {', '.join(MIXERS)}")
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}; a model has at least one layer")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it must be in [0, 1)")
        sizes = [state_dim] * num_layers if isinstance(state_dim, int) else list(state_dim)
        if len(sizes) != num_layers:
            raise ValueError(f"state_dim has {len(sizes)} entries for {num_layers} layers; give one for each")
        self.mixer, self.dropout, self.mixer_options = mixer, dropout, dict(mixer_options or {})
        self.encoder = nn.Linear(input_dim, model_dim)
        self.blocks = nn.ModuleList(self._make_block(model_dim, size) for size in sizes)
        self.norm_f = None if mixer in TIME_INVARIANT else RMSNorm(model_dim, eps=1e-5)

    @property
    def state_dims(self) -> list[int]:
        """States of each layer as it is now."""
        return [block.mixer.state_dim for block in self._blocks()]

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build this model at its present sizes."""
        return {
            "input_dim": self.encoder.in_features,
            "num_layers": len(self.blocks),
            "model_dim": self.encoder.out_features,
            "state_dim": self.state_dims,
            "mixer": self.mixer,
            "dropout": self.dropout,
            "mixer_options": dict(self.mixer_options),
        }

    def _make_block(self, model_dim: int, state_dim: int) -> Block | PreNormBlock:
        name, options = self.mixer, self.mixer_options
        if name in TIME_INVARIANT:
            layer = make_mixer(TIME_INVARIANT[name], name, model_dim, state_dim, options)
            return Block(layer, model_dim, dropout=self.dropout)
        kind = LANGUAGE_MIXERS[name]
        layer = make_mixer(kind.make, name, model_dim, state_dim, options)
        return PreNormBlock(layer, model_dim, feed_forward=kind.feed_forward, dropout=self.dropout)

    def _blocks(self) -> list[Block | PreNormBlock]:
        return cast(list[Block | PreNormBlock], list(self.blocks))

    def _run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode and run the blocks: ``(batch, L, input_dim)`` to ``(batch, L, H)``.

        Raises:
            ValueError: If ``x`` has another shape.
        """
        if x.dim() != 3 or x.shape[2] != self.encoder.in_features:
            raise ValueError(
                f"inputs have shape {tuple(x.shape)}; expected (batch, L, {self.encoder.in_features})"
            )
        hidden: Tensor = self.encoder(x)
        for block in self._blocks():
            if isinstance(block, Block):
                hidden, _ = block(hidden, mask=mask, final_state=False)
            else:  # looks back only, and takes no statistics: what comes after a sequence does not reach it
                hidden, _ = block(hidden, final_state=False)
        return hidden if self.norm_f is None else self.norm_f(hidden)

    def _pooled(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The mean over the valid steps after the blocks, ``(batch, H)``.

        Raises:
            ValueError: If the shapes do not fit, or a length is outside ``1..L``.
        """
        mask = None if lengths is None else valid_steps(lengths, x.shape[0], x.shape[1])
        hidden = self._run(x, mask)
        if mask is None:
            return hidden.mean(dim=1)
        return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def _step(self, x_k: Tensor, layers: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One input of each sequence ``(batch, input_dim)`` through the blocks: ``(batch, H)`` and states.

        Raises:
            RuntimeError: In training mode, where batch normalisation needs whole sequences.
        """
        if self.training:
            raise RuntimeError("step() streams a trained model: call model.eval() first")
        hidden = self.encoder(x_k)
        after = []
        for index, block in enumerate(self._blocks()):
            hidden, layer = block.step(hidden, None if layers is None else layers[index])
            after.append(layer)
        return (hidden if self.norm_f is None else self.norm_f(hidden)), tuple(after)


def valid_steps(lengths: Tensor, batch: int, length: int) -> Tensor:
    """Which of ``length`` steps are valid, bool ``(batch, length)``.

    Raises:
        ValueError: If there is not one length for each sequence, or one is outside ``1..length``.
    """
    if lengths.shape != (batch,):
        raise ValueError(f"lengths has shape {tuple(lengths.shape)}; expected ({batch},)")
    wrong = (lengths < 1) | (lengths > length)
    if bool(wrong.any()):
        raise ValueError(f"lengths holds {int(lengths[wrong][0])}; each must be in 1..{length}")
    return torch.arange(length, device=lengths.device) < lengths[:, None]
