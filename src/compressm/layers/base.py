"""What every state-space layer is to a model."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn


class StateSpaceLayer(nn.Module, ABC):
    """A causal map from ``(batch, L, H)`` to ``(batch, L, H)`` with a state, in parallel and in steps.

    Both ways take the state before the first input (None for zero) and return the state after the last one:
    a sequence may be cut anywhere and run on, and a trained layer streams without a change of mode.
    """

    # nn.Module's call is untyped; this is forward's type.
    __call__: Callable[..., tuple[Tensor, Tensor]]

    @property
    @abstractmethod
    def state_dim(self) -> int:
        """States ``N`` as they are now."""

    @abstractmethod
    def forward(
        self, u: Tensor, state: Tensor | None = None, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Run whole sequences ``(batch, L, H)``; returns outputs of that shape and the last state.

        Without ``final_state``, which costs some forms of the recurrence as much as the outputs, an empty
        tensor stands in its place.
        """

    def add_normed(
        self, x: Tensor, norm: nn.RMSNorm, state: Tensor | None = None, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor] | None:
        """``x + layer(norm(x))`` and the last state, where that is quicker in one; if not, None."""
        del x, norm, state, final_state
        return None

    @abstractmethod
    def step(self, u_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take one input of each sequence ``(batch, H)``; returns the output and the new state."""
