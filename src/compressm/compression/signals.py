"""Records what passes through the layers of a model: inputs, and gradients of the loss by the outputs."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressm.adapters import CompressibleLayer, Weighting
from compressm.compression.reducers import Needs

BATCHES = 4
SEQUENCES = 16


class SignalRecorder:
    """Remembers a few sequences of the last forward passes of each layer, as long as it is switched on.

    A layer's forward takes its input ``(batch, L, H)`` first and returns its output, or a tuple that begins
    with it. What is kept is independent of the number of states: a cut between recording and use is harmless.

    Args:
        layers: The layers to watch.
        needs: What to record of each; "nothing" leaves a layer alone.
        batches: Forward passes that are remembered, the latest; None for all.
        sequences: Sequences of each that are remembered, the first; None for all.
        only_in_training: Pass over what runs in evaluation mode.

    Attributes:
        recording: Whether forward passes are recorded now.
    """

    def __init__(
        self,
        layers: Sequence[CompressibleLayer],
        needs: Sequence[Needs],
        *,
        batches: int | None = BATCHES,
        sequences: int | None = SEQUENCES,
        only_in_training: bool = True,
    ) -> None:
        self.needs = {layer.name: need for layer, need in zip(layers, needs, strict=True)}
        self.recording = False
        self._sequences, self._only_in_training = sequences, only_in_training
        # An input and the gradient that belongs to it; without gradients in the second place None.
        self._recorded: dict[str, deque[tuple[Tensor, Tensor | None]]] = {
            layer.name: deque(maxlen=batches) for layer in layers
        }
        # Hooks stay while they may be needed, and look at ``recording``: torch.compile takes no notice of
        # hooks that come later, and would compile anew for each that comes and goes.
        self._handles = [
            layer.module.register_forward_hook(self._hook(layer), with_kwargs=True)
            for layer, need in zip(layers, needs, strict=True)
            if need != "nothing"
        ]

    def switch(self, *, on: bool) -> None:
        """Begin to record, forgetting what was seen before, or pause; nothing happens if it is so already."""
        if on == self.recording:
            return
        if on:
            self.forget()
        self.recording = on

    def close(self) -> None:
        """Record nothing any more, forget what was recorded, and leave the model."""
        self.leave()
        self.forget()

    def leave(self) -> None:
        """Record nothing any more and leave the model, but remember what was recorded."""
        self.recording = False
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def signals(self, name: str) -> Weighting:
        """What was recorded of the layer ``name``.

        Raises:
            RuntimeError: If nothing was, with the remedy.
        """
        recorded, needs = self._recorded[name], self.needs[name]
        if not recorded and needs != "nothing":
            raise RuntimeError(
                f"no {needs} of layer {name!r} were recorded before the cut: between two calls of "
                "compressor.step() the model must run forward, and backward if there are to be "
                "gradients, in training mode; and the compressor must be made before torch.compile. With "
                "reduction='balanced' no signals are needed"
            )
        return Weighting("none", [u for u, _ in recorded], [g for _, g in recorded if g is not None])

    def forget(self) -> None:
        """Drop all that was recorded."""
        for recorded in self._recorded.values():
            recorded.clear()

    def state_dict(self) -> dict[str, Any]:
        """Whether it records, and the recorded tensors."""
        return {
            "recording": self.recording,
            "recorded": {name: list(recorded) for name, recorded in self._recorded.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.recording = state["recording"]
        for name, recorded in self._recorded.items():
            recorded.clear()
            recorded.extend(tuple(pair) for pair in state["recorded"].get(name, ()))

    def _hook(self, layer: CompressibleLayer) -> Any:
        name, watched, gradients = layer.name, layer.module, self.needs[layer.name] == "gradients"

        @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
        def remember(
            module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any
        ) -> None:
            # A deep copy of the model carries this hook along; only the model itself is recorded.
            if not self.recording or module is not watched or module.training < self._only_in_training:
                return
            # Other libraries' models may pass even the first argument by name.
            u = arguments[0] if arguments else next(iter(keywords.values()))
            u = u.detach()[: self._sequences].clone()
            if not gradients:
                self._recorded[name].append((u, None))
                return
            # A pass whose gradient never comes (no backward, or repeated by a checkpoint) leaves nothing.
            y = output[0] if isinstance(output, tuple) else output
            if y.requires_grad:
                y.register_hook(
                    lambda g: self._recorded[name].append((u, g.detach()[: self._sequences].clone()))
                )

        return remember
