"""Layers that carry a window of inputs besides their memory: those with a short convolution in front."""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from compressm.layers.arguments import check_state
from compressm.layers.base import StateSpaceLayer


class WindowedLayer(StateSpaceLayer):
    """A layer whose running state is a window of past inputs and the memory of a recurrence.

    Both travel as one tensor ``(batch, S)``, so that a model need not know what a layer carries;
    :meth:`split_state` and :meth:`join_state` convert.
    """

    @property
    @abstractmethod
    def window_shape(self) -> tuple[int, int]:
        """Shape of one sequence's window: channels of the convolution, and its past inputs."""

    @property
    @abstractmethod
    def memory_shape(self) -> tuple[int, ...]:
        """Shape of one sequence's memory."""

    def split_state(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Window ``(batch, *window_shape)`` and memory ``(batch, *memory_shape)`` of a running state.

        Raises:
            ValueError: If the state does not fit the layer.
        """
        inputs = math.prod(self.window_shape)
        batch, expected = state.shape[0], inputs + math.prod(self.memory_shape)
        check_state(type(self).__name__, state, (batch, expected))
        window, memory = state[:, :inputs], state[:, inputs:]
        return window.reshape(batch, *self.window_shape), memory.reshape(batch, *self.memory_shape)

    def join_state(self, window: Tensor, memory: Tensor) -> Tensor:
        """The running state ``(batch, S)`` with this window and this memory."""
        return torch.cat((window.flatten(1).to(memory.dtype), memory.flatten(1)), dim=1)

    def _begin(self, state: Tensor | None, batch: int) -> tuple[Tensor | None, Tensor | None]:
        """Window and memory to start ``batch`` sequences from, None for zero."""
        if state is None:
            return None, None
        if state.shape[0] != batch:
            raise ValueError(
                f"{type(self).__name__}: the state holds {state.shape[0]} sequences, the inputs {batch}; "
                "give one state for each sequence"
            )
        return self.split_state(state)
