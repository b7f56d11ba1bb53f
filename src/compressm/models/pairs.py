"""Classify pairs of sequences: one encoder and stack of blocks for both, a head that compares."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressm.models.sequence import SequenceModel


class PairClassifier(SequenceModel):
    """Both sequences through the same blocks, then a small network on both means, difference and product.

    That is the dual encoder that the retrieval task of the Long Range Arena asks for (Tay and others, arXiv
    2011.04006, section 2.2): the sequences meet in the head alone.

    Args:
        input_dim: Channels of the data.
        num_classes: Logits to give.
        num_layers: Blocks.
        model_dim: Channels ``H`` inside.
        state_dim: States ``N`` of every layer, or one number for each (a model after cuts has its own sizes).
        mixer: The state-space layer, one of ``compressm.models.sequence.MIXERS``.
        dropout: Probability of dropout in the blocks.
        mixer_options: More keyword arguments of the layers, such as ``{"expand": 4}``; the same for all.

    Raises:
        TypeError: If the layer does not know an option.
        ValueError: If the mixer is unknown or ``state_dim`` has another length than ``num_layers``.
    """

    def __init__(
        self,
        input_dim: int,
        num_classes: int,
        *,
        num_layers: int,
        model_dim: int,
        state_dim: int | Sequence[int],
        mixer: str = "lru",
        dropout: float = 0.1,
        mixer_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            input_dim, num_layers=num_layers, model_dim=model_dim, state_dim=state_dim, mixer=mixer,
            dropout=dropout, mixer_options=mixer_options,
        )  # fmt: skip
        self.compare = nn.Linear(4 * model_dim, 2 * model_dim)
        self.head = nn.Linear(2 * model_dim, num_classes)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build this model at its present sizes."""
        return {**super().config, "num_classes": self.head.out_features}

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Classify pairs.

        Args:
            x: ``(batch, 2, L, input_dim)``.
            lengths: Valid steps of each sequence ``(batch, 2)``; all of them if not given.

        Returns:
            Logits ``(batch, num_classes)``.

        Raises:
            ValueError: If the shapes do not fit, or a length is outside ``1..L``.
        """
        if x.dim() != 4 or x.shape[1] != 2:
            shape = f"(batch, 2, L, {self.encoder.in_features})"
            raise ValueError(f"inputs have shape {tuple(x.shape)}; expected pairs {shape}")
        if lengths is not None and lengths.shape != x.shape[:2]:
            raise ValueError(f"lengths has shape {tuple(lengths.shape)}; expected {tuple(x.shape[:2])}")
        # All sequences at once: batch normalisation then sees both sides alike.
        pooled = self._pooled(x.flatten(0, 1), None if lengths is None else lengths.flatten())
        first, second = pooled.reshape(len(x), 2, -1).unbind(1)
        features = torch.cat((first, second, first - second, first * second), dim=-1)
        logits: Tensor = self.head(nn.functional.gelu(self.compare(features)))
        return logits
