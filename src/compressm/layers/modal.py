"""What LRU, S5 and rotation blocks have in common: one diagonal system for all channels."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from compressm.layers.arguments import check_input, check_sequence, check_state
from compressm.layers.base import StateSpaceLayer
from compressm.layers.skip import add_skip
from compressm.scan import lti_scan
from compressm.scan.lti import halves
from compressm.scan.runtime.card import on_card


class ModalLayer(StateSpaceLayer):
    r"""A layer that is one diagonal system: ``x_k = λ x_{k-1} + B u_k``, ``y_k = Re(C x_k) + D u_k``.

    A subclass says what ``λ``, ``B`` and ``C`` are in terms of its parameters; running them is the same for
    all. Complex quantities are real pairs with a leading dimension of 2 (real part, imaginary part), so that
    projections are single real matrix products and nothing complex meets autocast, ``torch.compile`` or a
    checkpoint.

    A bidirectional layer runs the same ``λ`` and ``B`` forward and backward in time and adds the two outputs,
    each through its own half of ``C``. Zeros after the end of a sequence do not reach the backward direction:
    its state is still zero where the data begin.
    """

    D: nn.Parameter

    @abstractmethod
    def eigenvalues(self) -> Tensor:
        """The eigenvalues ``λ`` of the recurrence as a real pair ``(2, N)``."""

    @abstractmethod
    def input_matrix(self) -> Tensor:
        """The input matrix ``B`` of the recurrence as a real pair ``(2, N, H)``."""

    @abstractmethod
    def output_matrix(self) -> Tensor:
        """The output matrix ``C`` of ``y = Re(C x)`` as a real pair ``(2, H, N)``.

        Of a bidirectional layer ``(2, 2H, N)``: the forward direction's rows, then the backward direction's.
        """

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """``λ``, ``B`` and ``C`` as above."""
        return self.eigenvalues(), self.input_matrix(), self.output_matrix()

    # Sizes are read off the parameters, which a cut replaces: a stored copy could only disagree.
    @property
    def input_dim(self) -> int:
        """Channels ``H``."""
        return self.D.shape[0]

    @property
    def bidirectional(self) -> bool:
        """Whether the layer also runs backward in time."""
        return False

    def forward(
        self, u: Tensor, state: Tensor | None = None, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Run a whole sequence.

        Args:
            u: Inputs ``(batch, L, H)``.
            state: State before the first input, ``(batch, 2, N)``; zero if not given. A bidirectional layer
                takes none.
            final_state: Whether the state after the last input is wanted.

        Returns:
            Outputs ``(batch, L, H)`` and the (forward) state after the last input ``(batch, 2, N)``, empty if
            it is not wanted.

        Raises:
            ValueError: If the shapes do not fit the layer, or a bidirectional layer is given a state.
        """
        check_sequence(self._kind, u, self.input_dim)
        check_state(self._kind, state, (u.shape[0], 2, self.state_dim))
        lam, B, C = self.system()
        if on_card(u) and halves(u, self.input_dim):
            u = u.to(torch.bfloat16)  # once for the recurrence and the skip term
        # A CPU's kernels add the skip term while they have its rows at hand; a GPU has a kernel for it.
        direct = None if on_card(u) else self.D
        if not self.bidirectional:
            y, last = lti_scan(u, lam, B, C, state, final=final_state, D=direct)
            return self._skip(y, u, direct), last if final_state else u.new_empty(0)
        if state is not None:
            raise ValueError(
                f"{self._kind}: a bidirectional layer takes no state, because its output depends on the "
                "whole sequence; give it whole sequences, or build it with bidirectional=False"
            )
        ahead, back = C.tensor_split(2, dim=1)
        y, last = lti_scan(u, lam, B, ahead, final=final_state, D=direct)
        y_back, _ = lti_scan(u, lam, B, back, reverse=True, final=False)
        return self._skip(y + y_back, u, direct), last if final_state else u.new_empty(0)

    def step(self, u_k: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take one input, for streaming.

        Args:
            u_k: One input for each sequence, ``(batch, H)``.
            state: State before it, ``(batch, 2, N)``; zero if not given.

        Returns:
            The output ``(batch, H)`` and the state after it ``(batch, 2, N)``.

        Raises:
            ValueError: If the shapes do not fit the layer.
            RuntimeError: If the layer is bidirectional: its output needs inputs that are still to come.
        """
        if self.bidirectional:
            raise RuntimeError(
                f"{self._kind}: a bidirectional layer cannot step(): its output needs inputs that are still "
                "to come; run forward() on whole sequences, or build it with bidirectional=False"
            )
        check_input(self._kind, u_k, self.input_dim)
        check_state(self._kind, state, (u_k.shape[0], 2, self.state_dim))
        x_re, x_im = torch.einsum("bh,cnh->cbn", u_k, self.input_matrix())
        if state is not None:
            a_re, a_im = self.eigenvalues()
            s_re, s_im = state[:, 0], state[:, 1]
            x_re, x_im = x_re + a_re * s_re - a_im * s_im, x_im + a_re * s_im + a_im * s_re
        C_re, C_im = self.output_matrix()
        y = x_re @ C_re.T - x_im @ C_im.T + self.D * u_k
        return y, torch.stack((x_re, x_im), dim=1)

    def _skip(self, y: Tensor, u: Tensor, added: Tensor | None) -> Tensor:
        return add_skip(y, u, self.D) if added is None else y

    @property
    def _kind(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        sizes = f"input_dim={self.input_dim}, state_dim={self.state_dim}"
        return f"{sizes}, bidirectional=True" if self.bidirectional else sizes
