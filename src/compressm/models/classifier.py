"""Classify whole sequences: linear encoder, blocks, masked mean over time, linear head."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from compressm.models.sequence import SequenceModel


class StreamState(NamedTuple):
    """What a streaming classifier carries from input to input."""

    layers: tuple[Tensor, ...]
    total: Tensor
    steps: int


class SequenceClassifier(SequenceModel):
    """The paper's classifier: linear encoder, ``num_layers`` blocks, mean over time, linear head.

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
        self.head = nn.Linear(model_dim, num_classes)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build this model at its present sizes."""
        return {**super().config, "num_classes": self.head.out_features}

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Classify sequences.

        Args:
            x: ``(batch, L, input_dim)``.
            lengths: Valid steps of each sequence ``(batch,)``; all of them if not given. What comes after is
                padding: it enters neither the normalisation's statistics nor the mean.

        Returns:
            Logits ``(batch, num_classes)``.

        Raises:
            ValueError: If the shapes do not fit, or a length is outside ``1..L``.
        """
        logits: Tensor = self.head(self._pooled(x, lengths))
        return logits

    def step(self, x_k: Tensor, state: StreamState | None = None) -> tuple[Tensor, StreamState]:
        """Take one input of each sequence ``(batch, input_dim)`` and classify what was seen so far.

        Returns:
            Logits ``(batch, num_classes)`` as ``forward`` would give for the inputs so far, and the state.

        Raises:
            RuntimeError: In training mode, where batch normalisation needs whole sequences.
        """
        hidden, layers = self._step(x_k, None if state is None else state.layers)
        total, steps = (hidden, 1) if state is None else (state.total + hidden, state.steps + 1)
        return self.head(total / steps), StreamState(layers, total, steps)
