"""The LRU's system and the way back into its parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressm.adapters.base import ParameterUpdate
from compressm.adapters.basis import BasisChange
from compressm.adapters.bidirectional import balance_both_ways
from compressm.adapters.parameters import (
    check_vector_feedthrough,
    double,
    pair,
    scaled_alike,
    unpair,
)
from compressm.adapters.weighting import Weighting
from compressm.layers import LRU
from compressm.lti import Balancing, DiagonalSystem, Realization, Reduction

# A mode this fast (|λ| < 2e-22) forgets its input at once in any precision, and log(-log|λ|) stays finite.
FASTEST_DECAY = 50.0


class LRUAdapter:
    """Joins :class:`compressm.layers.LRU` to the systems theory."""

    ssm_parameters = ("nu", "theta", "gamma_log", "B")

    def state_dim(self, layer: LRU) -> int:
        """Complex states of the layer."""
        return layer.state_dim

    @torch.no_grad()
    def system(self, layer: LRU) -> DiagonalSystem:
        """``(log λ, γ B, C, D)`` in double precision; ``log λ`` straight from ``nu`` and ``theta``.

        Of a bidirectional layer it has the outputs of the forward direction and, below them, those of the
        backward one, without the direct term.
        """
        log_A = torch.complex(-torch.exp(double(layer.nu)), double(layer.theta))
        gamma = torch.exp(double(layer.gamma_log))[:, None]
        D = None if layer.bidirectional else double(layer.D)
        return DiagonalSystem(None, gamma * unpair(layer.B), unpair(layer.C), D, log_A=log_A)

    def balance(self, layer: LRU, realization: Realization, weighting: Weighting) -> Balancing:
        """Balance the system; of a bidirectional layer both directions with one basis."""
        if layer.bidirectional:
            return balance_both_ways(self.system(layer), realization, weighting)
        return weighting.balance(self.system(layer), realization)

    @torch.no_grad()
    def write_back(self, layer: LRU, reduction: Reduction) -> Mapping[str, ParameterUpdate]:
        """Parameters of the smaller LRU.

        ``nu = log(-log|λ|)``, ``theta = arg λ``, ``γ = sqrt(1 - |λ|²)`` (CompreSSM, section 3). The scale of
        each mode, free in theory but seen by Adam and weight decay, is set so that its row of the stored B
        and its column of C have equal norms.

        Raises:
            ValueError: If the reduction changed the feed-through to a full matrix, which an LRU has not.
        """
        check_vector_feedthrough("an LRU", reduction.system)
        decay = -reduction.system.log_A.real.clamp(min=-FASTEST_DECAY)
        gamma = torch.sqrt(-torch.expm1(-2 * decay))
        reduction = scaled_alike(reduction, gamma).reduction
        system, change = reduction.system, BasisChange.of(reduction)
        old_gamma = torch.exp(double(layer.gamma_log))[:, None]
        new_gamma = gamma[:, None]

        def move_B(moment: Tensor) -> Tensor:
            return new_gamma * change.input_moment(moment / old_gamma)

        def move_B_squared(moment: Tensor) -> Tensor:
            return new_gamma**2 * change.input_moment(moment / old_gamma**2, squared=True)

        return {
            "nu": ParameterUpdate(torch.log(decay)),
            "theta": ParameterUpdate(torch.remainder(system.log_A.imag, 2 * torch.pi)),
            "gamma_log": ParameterUpdate(torch.log(gamma)),
            "B": ParameterUpdate(pair(system.B / new_gamma), move_B, move_B_squared),
            "C": ParameterUpdate(
                pair(system.C),
                change.output_moment,
                lambda moment: change.output_moment(moment, squared=True),
            ),
        }
