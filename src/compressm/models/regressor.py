"""Real values at every step of a sequence: linear encoder, causal blocks, linear head."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from compressm.models.sequence import BIDIRECTIONAL, SequenceModel, valid_steps


class SequenceRegressor(SequenceModel):
    """Map sequences to sequences; what comes out at a step depends on the inputs until then alone.

    Args:
        input_dim: Channels of the data.
        target_dim: Values to give at every step.
        num_layers: Blocks.
        model_dim: Channels ``H`` inside.
        state_dim: States ``N`` of every layer, or one number for each (a model after cuts has its own sizes).
        mixer: The state-space layer, one of ``compressm.models.sequence.MIXERS`` that looks back only.
        dropout: Probability of dropout in the blocks.
        mixer_options: More keyword arguments of the layers, such as ``{"expand": 4}``; the same for all.

    Raises:
        TypeError: If the layer does not know an option.
        ValueError: If the mixer is unknown or bidirectional, or ``state_dim`` has another length than
            ``num_layers``.
    """

    def __init__(
        self,
        input_dim: int,
        target_dim: int,
        *,
        num_layers: int,
        model_dim: int,
        state_dim: int | Sequence[int],
        mixer: str = "lru",
        dropout: float = 0.0,
        mixer_options: Mapping[str, Any] | None = None,
    ) -> None:
        if mixer in BIDIRECTIONAL:
            raise ValueError(
                f"mixer is {mixer!r}, which looks ahead; a SequenceRegressor looks back only: take "
                f"{mixer.removesuffix('-bi')!r}"
            )
        super().__init__(
            input_dim, num_layers=num_layers, model_dim=model_dim, state_dim=state_dim, mixer=mixer,
            dropout=dropout, mixer_options=mixer_options,
        )  # fmt: skip
        self.head = nn.Linear(model_dim, target_dim)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build this model at its present sizes."""
        return {**super().config, "target_dim": self.head.out_features}

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map ``(batch, L, input_dim)`` to ``(batch, L, target_dim)``.

        Args:
            x: The inputs.
            lengths: Valid steps of each sequence ``(batch,)``; what comes after does not enter the
                normalisation's statistics, and outputs there mean nothing.

        Raises:
            ValueError: If the shapes do not fit, or a length is outside ``1..L``.
        """
        mask = None if lengths is None else valid_steps(lengths, x.shape[0], x.shape[1])
        y: Tensor = self.head(self._run(x, mask))
        return y

    def step(self, x_k: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one input of each sequence, ``(batch, input_dim)``.

        Returns:
            Values ``(batch, target_dim)`` as ``forward`` would give at this step, and the state.

        Raises:
            RuntimeError: In training mode, where batch normalisation needs whole sequences.
        """
        hidden, state = self._step(x_k, state)
        return self.head(hidden), state
