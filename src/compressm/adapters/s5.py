"""S5's system and the way back into its parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressm.adapters.base import ParameterUpdate
from compressm.adapters.basis import BasisChange
from compressm.adapters.bidirectional import balance_both_ways
from compressm.adapters.factors import with_input_factors
from compressm.adapters.parameters import (
    check_vector_feedthrough,
    double,
    pair,
    participation,
    scaled_alike,
    unpair,
)
from compressm.adapters.weighting import Weighting
from compressm.layers import S5
from compressm.layers.discretization import continuous_eigenvalues, discretize
from compressm.lti import Balancing, DiagonalSystem, Realization, Reduction


class S5Adapter:
    """Joins :class:`compressm.layers.S5` to the systems theory.

    A cut keeps the time scales: the step of a new mode is the geometric mean of the old ones, weighted by how
    much of each old mode is in it, and its continuous eigenvalue follows from the discrete one exactly.
    """

    ssm_parameters = ("log_A_real", "A_imag", "log_dt", "B")

    def state_dim(self, layer: S5) -> int:
        """Complex states of the layer."""
        return layer.state_dim

    @torch.no_grad()
    def system(self, layer: S5) -> DiagonalSystem:
        """``(log λ, f B, 2 C, D)`` in double precision.

        Of a bidirectional layer the outputs of both directions, forward ones first, without the direct term.
        """
        discrete = discretize(*_continuous(layer), "zoh")
        return DiagonalSystem(
            None,
            discrete.factor()[:, None] * unpair(layer.B),
            2.0 * unpair(layer.C),
            None if layer.bidirectional else double(layer.D),
            log_A=discrete.log_eigenvalues(),
        )

    def balance(self, layer: S5, realization: Realization, weighting: Weighting) -> Balancing:
        """Balance the system; of a bidirectional layer both directions with one basis."""
        if layer.bidirectional:
            return balance_both_ways(self.system(layer), realization, weighting)
        return weighting.balance(self.system(layer), realization)

    @torch.no_grad()
    def write_back(self, layer: S5, reduction: Reduction) -> Mapping[str, ParameterUpdate]:
        """Parameters of the smaller S5.

        The free scale of each mode is set so that its row of the stored B and its column of the stored C have
        equal norms. Moments of B and C move, those of the dynamics restart.

        Raises:
            ValueError: If the reduction changed the feed-through to a full matrix, which an S5 has not.
        """
        check_vector_feedthrough("an S5", reduction.system)
        log_dt = participation(reduction).mT @ double(layer.log_dt)
        log_A_real, A_imag = continuous_eigenvalues(reduction.system.log_A, torch.exp(log_dt), "zoh")
        factor = discretize(log_A_real, A_imag, log_dt, "zoh").factor()
        reduction, B, C = scaled_alike(reduction, factor, output_scale=2.0)
        old_factor = discretize(*_continuous(layer), "zoh").factor()
        change = with_input_factors(BasisChange.of(reduction), old_factor, factor)
        return {
            "log_A_real": ParameterUpdate(log_A_real),
            "A_imag": ParameterUpdate(A_imag),
            "log_dt": ParameterUpdate(log_dt),
            "B": ParameterUpdate(
                pair(B),
                change.input_moment,
                lambda moment: change.input_moment(moment, squared=True),
            ),
            # The 2 in the output is in front of the old C and of the new one: moments do not see it.
            "C": ParameterUpdate(
                pair(0.5 * C),
                change.output_moment,
                lambda moment: change.output_moment(moment, squared=True),
            ),
        }


def _continuous(layer: S5) -> tuple[Tensor, Tensor, Tensor]:
    return double(layer.log_A_real), double(layer.A_imag), double(layer.log_dt)
