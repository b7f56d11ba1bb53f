"""Layers that run both ways in time with one set of states: ``y = G_forward u + G_backward u``.

Both directions share the eigenvalues and the input matrix, so one change of basis serves both: the system
that is balanced has the outputs of the forward direction and, below them, those of the backward one. The
layer adds the two, and the gain of a sum is at most the sum of the gains: that is what the error figures here
are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from compressm.adapters.weighting import Weighting
from compressm.lti import Balancing, DiagonalSystem, Realization, Reduction
from compressm.lti.search import Found


@dataclass(frozen=True, eq=False)
class TwoWayReduction(Reduction):
    """A reduction of the stacked system whose error figures are those of the layer.

    ``error_bound`` is twice that of the stacked system, which holds for either direction by itself.
    """

    @cached_property
    def error(self) -> float:
        """The sum of both directions' H-infinity errors, which the layer's own cannot exceed."""
        difference = self.original - self.system
        halves = difference.C.tensor_split(2)
        return sum(
            DiagonalSystem(None, difference.B, half, log_A=difference.log_A).hinf_norm() for half in halves
        )


@dataclass(frozen=True, eq=False)
class TwoWayBalancing(Balancing):
    """A balancing of the stacked system; see the module's description."""

    def reduction(self, original: DiagonalSystem, found: Found, direct: Tensor | None) -> Reduction:
        """Put a reduction together, with the layer's error figures."""
        stacked = super().reduction(original, found, direct)
        bound = None if stacked.error_bound is None else 2.0 * stacked.error_bound
        values = {field.name: getattr(stacked, field.name) for field in fields(stacked)}
        return TwoWayReduction(**{**values, "error_bound": bound})


def balance_both_ways(
    system: DiagonalSystem, realization: Realization, weighting: Weighting
) -> TwoWayBalancing:
    """Balance the stacked system of a bidirectional layer.

    The backward direction is the same system run on the sequence turned round. So recorded inputs count in
    both orders, and a recorded gradient, which reaches either direction's outputs, counts once for each.

    Args:
        system: Outputs of the forward direction, then those of the backward one; no direct term.
        realization: The form to balance.
        weighting: What is known of the layer's signals.

    Raises:
        ValueError: If the weighting lacks signals that it needs, or they are not finite.
    """
    both = replace(
        weighting,
        inputs=[u for signal in weighting.inputs for u in (signal, signal.flip(1))],
        gradients=[_of_either_direction(gradient) for gradient in weighting.gradients],
    )
    balancing = both.balance(system, realization)
    return TwoWayBalancing(**{field.name: getattr(balancing, field.name) for field in fields(balancing)})


def _of_either_direction(gradient: Tensor) -> Tensor:
    """Forward outputs' gradients with nothing for the backward ones, then the other way round."""
    nothing = torch.zeros_like(gradient)
    ahead, back = torch.cat((gradient, nothing), -1), torch.cat((nothing, gradient.flip(1)), -1)
    return torch.cat((ahead, back))
