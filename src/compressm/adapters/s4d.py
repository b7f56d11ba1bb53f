"""S4D's channels and the way back into its parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressm.adapters.base import ParameterUpdate
from compressm.adapters.channel_weighting import balance_weighted_channels
from compressm.adapters.parameters import double, pair, unpair
from compressm.adapters.weighting import Weighting
from compressm.layers import S4D
from compressm.layers.discretization import continuous_eigenvalues, discretize
from compressm.lti import DiagonalSystem, Realization, Reduction
from compressm.lti.channels import ChannelBalancing, ChannelReduction

# What stored modes beyond a channel's own hold: nothing reads them, so any ordinary number will do.
_INERT_LOG_A_REAL, _INERT_A_IMAG = -0.6931471805599453, 0.0


class S4DAdapter:
    """Joins :class:`compressm.layers.S4D` to the systems theory: every channel is balanced on its own.

    Args:
        per_channel: Whether channels may end with different numbers of states, each by its own Hankel
            singular values. All are stored at the size of the largest, and memory and time shrink only as far
            as that one does. Otherwise all get a common size.
    """

    # C is in the main group, as in the authors' training: only the dynamics are trained slower.
    ssm_parameters = ("log_A_real", "A_imag", "log_dt")

    def __init__(self, *, per_channel: bool = False) -> None:
        self.per_channel = per_channel

    def state_dim(self, layer: S4D) -> int:
        """Complex states of the largest channel."""
        return layer.state_dim

    @torch.no_grad()
    def system(self, layer: S4D) -> DiagonalSystem:
        """All channels side by side as one system of ``H N`` states, for inspection and norms."""
        log_A, B, C = _channels(layer)
        return DiagonalSystem(
            None,
            _block_diagonal(B[:, :, None]),
            _block_diagonal(C[:, None, :]),
            double(layer.D),
            log_A=log_A.flatten(),
        )

    @torch.no_grad()
    def channel_systems(self, layer: S4D) -> tuple[DiagonalSystem, ...]:
        """One single-input single-output system of ``N`` states for each channel, without the direct term.

        For methods of your own: reduce each and pass a :class:`compressm.lti.channels.ChannelReduction` of
        the results to :meth:`write_back`.
        """
        return tuple(
            DiagonalSystem(None, b[:, None], c[None, :], log_A=log_A)
            for log_A, b, c in zip(*_channels(layer), strict=True)
        )

    @torch.no_grad()
    def balance(self, layer: S4D, realization: Realization, weighting: Weighting) -> ChannelBalancing:
        """Balance every channel, all of them in one batch, with what is known of the channel's own signals.

        Raises:
            ValueError: If a channel is unstable or not finite, which it names, or recorded signals are
                missing or not finite.
        """
        return ChannelBalancing(
            balance_weighted_channels(*_channels(layer), realization, weighting), self.per_channel
        )

    @torch.no_grad()
    def write_back(self, layer: S4D, reduction: ChannelReduction) -> Mapping[str, ParameterUpdate]:
        """Parameters of the smaller S4D. Every channel keeps its step.

        The input matrix is one, so all of a mode's weight goes to ``C``, whose moments move. Those of the
        eigenvalues and of the steps restart: frequencies are taken below half a turn per step, and a gradient
        by the step sees how many whole turns were there before. Channels with fewer states than the largest
        are filled up with inert modes.

        Raises:
            TypeError: If the reduction is of one system for all channels, which an S4D cannot represent.
        """
        if not isinstance(reduction, ChannelReduction):
            raise TypeError(
                f"S4D takes a ChannelReduction, not a {type(reduction).__name__}: its channels are "
                "independent systems; reduce each of channel_systems(layer) by itself"
            )
        shape = layer.input_dim, reduction.order
        log_A_real = torch.full(shape, _INERT_LOG_A_REAL, dtype=torch.float64)
        A_imag = torch.full(shape, _INERT_A_IMAG, dtype=torch.float64)
        C = torch.zeros(shape, dtype=torch.complex128)
        moves = torch.zeros(2, layer.input_dim, 2 * layer.state_dim, reduction.order, dtype=torch.float64)
        log_dt = double(layer.log_dt)
        for h, channel in enumerate(reduction.channels):
            used = slice(0, channel.order)
            log_A_real[h, used], A_imag[h, used] = continuous_eigenvalues(
                channel.system.log_A, torch.exp(log_dt[h]), layer.discretization
            )
            factor = discretize(
                log_A_real[h, used], A_imag[h, used], log_dt[h], layer.discretization
            ).factor()
            C[h, used], moves[:, h, :, used] = _at_unit_input(channel, factor)

        def move_C(moment: Tensor, *, squared: bool = False) -> Tensor:
            matrices = moves**2 if squared else moves
            return torch.einsum("hn,chnr->chr", torch.cat((moment[0], moment[1]), dim=1), matrices)

        return {
            "log_A_real": ParameterUpdate(log_A_real),
            "A_imag": ParameterUpdate(A_imag),
            "log_dt": ParameterUpdate(log_dt),
            # The 2 in the output is in front of the old C and of the new one: moments do not see it.
            "C": ParameterUpdate(pair(0.5 * C), move_C, lambda moment: move_C(moment, squared=True)),
            "channel_states": ParameterUpdate(torch.tensor([c.order for c in reduction.channels])),
        }


def _channels(layer: S4D) -> tuple[Tensor, Tensor, Tensor]:
    """``log λ``, ``f`` and ``2 C`` of every channel, ``(H, N)``; inert modes take no part."""
    log_dt = double(layer.log_dt)[:, None]
    discrete = discretize(double(layer.log_A_real), double(layer.A_imag), log_dt, layer.discretization)
    used = torch.arange(layer.state_dim) < layer.channel_states.cpu()[:, None]
    return discrete.log_eigenvalues(), discrete.factor() * used, 2.0 * unpair(layer.C) * used


def _block_diagonal(blocks: Tensor) -> Tensor:
    """Matrices ``(H, m, n)`` as the blocks of one ``(H m, H n)``."""
    count, rows, columns = blocks.shape
    matrix = torch.zeros(count, rows, count, columns, dtype=blocks.dtype)
    index = torch.arange(count)
    matrix[index, :, index] = blocks
    return matrix.reshape(count * rows, count * columns)


def _at_unit_input(channel: Reduction, factor: Tensor) -> tuple[Tensor, Tensor]:
    """A channel's output row ``(r,)`` where its input column is ``factor``, and how C's moments move there.

    The moves are real ``(2, 2N, r)`` for the new real and imaginary parts, acting on ``[Re, Im]`` of the old:
    the old output row is ``C_r Y``, so a gradient moves by the adjoint of ``Y``.
    """
    b, c = channel.system.B[:, 0], channel.system.C[0]
    scale = torch.where(b == 0, 0.0, factor / torch.where(b == 0, 1.0, b))
    Y = scale[:, None] * channel.left
    if channel.realization == "complex":
        moves = torch.stack((torch.cat((Y.real, Y.imag), 1).T, torch.cat((-Y.imag, Y.real), 1).T))
    else:
        # The old row acts on (Re x, Im x) as [Re C, -Im C], hence the sign.
        Y_re, Y_im = Y.tensor_split(2, dim=1)
        on_old = torch.cat((Y_re, -Y_im), dim=1)
        moves = torch.stack((on_old.real.T, -on_old.imag.T))
    return torch.where(b == 0, 0.0, c / torch.where(b == 0, 1.0, scale)), moves
