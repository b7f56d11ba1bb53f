"""The LRU's system and the way back into its parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressm.adapters.base import ParameterUpdate
from compressm.adapters.basis import BasisChange
from compressm.layers import LRU
from compressm.lti import DiagonalSystem, Reduction

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
        """``(log λ, γ B, C, D)`` in double precision; ``log λ`` straight from ``nu`` and ``theta``."""
        log_A = torch.complex(-torch.exp(_double(layer.nu)), _double(layer.theta))
        gamma = torch.exp(_double(layer.gamma_log))[:, None]
        B, C = _double(layer.B), _double(layer.C)
        return DiagonalSystem(
            None,
            gamma * torch.complex(B[0], B[1]),
            torch.complex(C[0], C[1]),
            _double(layer.D),
            log_A=log_A,
        )

    @torch.no_grad()
    def write_back(self, layer: LRU, reduction: Reduction) -> Mapping[str, ParameterUpdate]:
        """Parameters of the smaller LRU.

        ``nu = log(-log|λ|)``, ``theta = arg λ``, ``γ = sqrt(1 - |λ|²)`` (CompreSSM, section 3). The scale of
        each mode, free in theory but seen by Adam and weight decay, is set so that its row of the stored B
        and its column of C have equal norms.

        Raises:
            ValueError: If the reduction changed the feed-through to a full matrix, which an LRU has not.
        """
        if reduction.system.D is not None and reduction.system.D.dim() != 1:
            raise ValueError(
                "an LRU's D is a vector, and this reduction (singular perturbation) needs a full matrix; "
                "use balanced truncation"
            )
        decay = -reduction.system.log_A.real.clamp(min=-FASTEST_DECAY)
        gamma = torch.sqrt(-torch.expm1(-2 * decay))
        reduction = reduction.rescaled(_balancing_scale(reduction.system, gamma))
        system, change = reduction.system, BasisChange.of(reduction)
        old_gamma = torch.exp(_double(layer.gamma_log))[:, None]
        new_gamma = gamma[:, None]

        def move_B(moment: Tensor) -> Tensor:
            return new_gamma * change.input_moment(moment / old_gamma)

        def move_B_squared(moment: Tensor) -> Tensor:
            return new_gamma**2 * change.input_moment(moment / old_gamma**2, squared=True)

        return {
            "nu": ParameterUpdate(torch.log(decay)),
            "theta": ParameterUpdate(torch.remainder(system.log_A.imag, 2 * torch.pi)),
            "gamma_log": ParameterUpdate(torch.log(gamma)),
            "B": ParameterUpdate(_pair(system.B / new_gamma), move_B, move_B_squared),
            "C": ParameterUpdate(
                _pair(system.C),
                change.output_moment,
                lambda moment: change.output_moment(moment, squared=True),
            ),
        }


def _balancing_scale(system: DiagonalSystem, gamma: Tensor) -> Tensor:
    """Divisor of each row of B that gives it the norm of C's column; 1 for a mode without effect."""
    row = torch.linalg.vector_norm(system.B, dim=1) / gamma
    column = torch.linalg.vector_norm(system.C, dim=0)
    scale = torch.sqrt(row / column)
    return torch.where((row > 0) & (column > 0), scale, torch.ones_like(scale)).to(system.B.dtype)


def _double(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", torch.float64)


def _pair(matrix: Tensor) -> Tensor:
    return torch.stack((matrix.real, matrix.imag))
