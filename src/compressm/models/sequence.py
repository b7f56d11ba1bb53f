"""What the models of whole sequences share: a linear encoder and a stack of state-space blocks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from compressm.layers import LRU, S4D, S5, RotationSSM, StateSpaceLayer
from compressm.models.block import Block

MIXERS: dict[str, Callable[[int, int], StateSpaceLayer]] = {
    "lru": LRU,
    "lru-bi": partial(LRU, bidirectional=True),
    "s5": S5,
    "s5-bi": partial(S5, bidirectional=True),
    "s4d": S4D,
    "rotation": RotationSSM,
}
"""State-space layers by the name a model's ``mixer`` takes: ``name -> (model_dim, state_dim) -> layer``."""

BIDIRECTIONAL = ("lru-bi", "s5-bi")
"""Those of :data:`MIXERS` whose outputs depend on later inputs."""


class SequenceModel(nn.Module):
    """Linear encoder and ``num_layers`` blocks; subclasses add a ``head``.

    Args:
        input_dim: Channels of the data.
        num_layers: Blocks.
        model_dim: Channels ``H`` inside.
        state_dim: States ``N`` of every layer, or one number for each (a model after cuts has its own sizes).
        mixer: The state-space layer, one of :data:`MIXERS`.
        dropout: Probability of dropout in the blocks.

    Raises:
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
    ) -> None:
        super().__init__()
        if mixer not in MIXERS:
            raise ValueError(f"mixer is {mixer!r}; choose one of {', '.join(sorted(MIXERS))}")
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}; a model has at least one layer")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it must be in [0, 1)")
        sizes = [state_dim] * num_layers if isinstance(state_dim, int) else list(state_dim)
        if len(sizes) != num_layers:
            raise ValueError(f"state_dim has {len(sizes)} entries for {num_layers} layers; give one for each")
        self.mixer, self.dropout = mixer, dropout
        self.encoder = nn.Linear(input_dim, model_dim)
        self.blocks = nn.ModuleList(
            Block(MIXERS[mixer](model_dim, size), model_dim, dropout=dropout) for size in sizes
        )

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
        }

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

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
            hidden, _ = block(hidden, mask=mask, final_state=False)
        return hidden

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
        return hidden, tuple(after)


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
