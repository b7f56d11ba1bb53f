"""The rotation blocks' system and the way back into their parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressm.adapters.base import ParameterUpdate
from compressm.adapters.basis import BasisChange
from compressm.adapters.parameters import check_vector_feedthrough, double, scaled_alike
from compressm.layers import RotationSSM
from compressm.layers.discretization import FASTEST_DECAY
from compressm.lti import DiagonalSystem, Reduction


class RotationAdapter:
    """Joins :class:`compressm.layers.RotationSSM` to the systems theory.

    ``ρ R(θ)`` acts on ``(x_1, x_2)`` as ``ρ e^{iθ}`` does on ``x_1 + i x_2``, and ``c_1 x_1 + c_2 x_2 =
    Re((c_1 - i c_2)(x_1 + i x_2))``: the two forms are the same numbers.
    """

    ssm_parameters = ("rho_logit", "theta", "B")

    def state_dim(self, layer: RotationSSM) -> int:
        """Blocks of the layer."""
        return layer.state_dim

    @torch.no_grad()
    def system(self, layer: RotationSSM) -> DiagonalSystem:
        """The blocks as complex modes, in double precision."""
        log_radius = torch.nn.functional.logsigmoid(double(layer.rho_logit))
        B1, B2 = double(layer.B).tensor_split(2)
        C1, C2 = double(layer.C).tensor_split(2, dim=1)
        return DiagonalSystem(
            None,
            torch.complex(B1, B2),
            torch.complex(C1, -C2),
            double(layer.D),
            log_A=torch.complex(log_radius, double(layer.theta)),
        )

    @torch.no_grad()
    def write_back(self, layer: RotationSSM, reduction: Reduction) -> Mapping[str, ParameterUpdate]:
        """Parameters of the smaller layer; a real eigenvalue is a block that does not turn, or turns by pi.

        Moments of B and C move, those of the dynamics restart.

        Raises:
            ValueError: If the reduction changed the feed-through to a full matrix, which the layer has not.
        """
        del layer
        check_vector_feedthrough("rotation blocks", reduction.system)
        decay = -reduction.system.log_A.real.clamp(min=-FASTEST_DECAY)
        reduction, B, C = scaled_alike(reduction, torch.ones(reduction.order, dtype=torch.complex128))
        change = BasisChange.of(reduction)

        def move_B(moment: Tensor, *, squared: bool = False) -> Tensor:
            return change.input_moment(torch.stack(moment.tensor_split(2)), squared=squared).flatten(0, 1)

        def move_C(moment: Tensor, *, squared: bool = False) -> Tensor:
            sign = 1.0 if squared else -1.0
            first, second = moment.tensor_split(2, dim=1)
            first, second = change.output_moment(torch.stack((first, sign * second)), squared=squared)
            return torch.cat((first, sign * second), dim=1)

        return {
            "rho_logit": ParameterUpdate(-decay - torch.log(-torch.expm1(-decay))),
            "theta": ParameterUpdate(reduction.system.log_A.imag),
            "B": ParameterUpdate(
                torch.cat((B.real, B.imag)), move_B, lambda moment: move_B(moment, squared=True)
            ),
            "C": ParameterUpdate(
                torch.cat((C.real, -C.imag), dim=1), move_C, lambda moment: move_C(moment, squared=True)
            ),
        }
