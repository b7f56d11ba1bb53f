"""A layer's linear systems as functions of its parameters, for losses that look at them."""

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compressm.layers import LRU, S4D, S5, RotationSSM
from compressm.layers.modal import ModalLayer


class SystemTensors(NamedTuple):
    """``x_k = exp(log_A) x_{k-1} + B u_k``, ``y_k = Re(C x_k)``; complex128, on the CPU, with gradients.

    Attributes:
        log_A: ``(N,)``.
        B: ``(N, H)``.
        C: ``(P, N)``.
    """

    log_A: Tensor
    B: Tensor
    C: Tensor


@singledispatch
def layer_systems(layer: nn.Module) -> list[SystemTensors]:
    """The systems a layer consists of: one, or for S4D one for each channel.

    Of a bidirectional layer the outputs are those of the forward direction and, below them, those of the
    backward one.  The numbers are those of the layer's adapter; here gradients flow from them to the
    parameters.  ``layer_systems.register(MyLayer)`` decorates the function for a layer of your own.

    Raises:
        TypeError: If the kind of layer is not known here.
    """
    raise TypeError(
        f"layer_systems: {type(layer).__name__} has no differentiable systems; give them with "
        f"@layer_systems.register({type(layer).__name__}) on a function from the layer to a list of "
        "SystemTensors(log_A, B, C)"
    )


@layer_systems.register
def _(layer: ModalLayer) -> list[SystemTensors]:
    """Any other modal layer, by way of its eigenvalues: ``1 - |l|`` is then as exact as they are."""
    log_A = torch.log(_complex(layer.eigenvalues()))
    return [SystemTensors(log_A, _complex(layer.input_matrix()), _complex(layer.output_matrix()))]


@layer_systems.register
def _(layer: LRU) -> list[SystemTensors]:
    log_A = torch.complex(-torch.exp(_double(layer.nu)), _double(layer.theta))
    B = torch.exp(_double(layer.gamma_log))[:, None] * _complex(layer.B)
    return [SystemTensors(log_A, B, _complex(layer.C))]


@layer_systems.register
def _(layer: S5) -> list[SystemTensors]:
    discrete = layer.discrete()
    B = discrete.factor().cpu()[:, None] * _complex(layer.B)
    return [SystemTensors(discrete.log_eigenvalues().cpu(), B, 2.0 * _complex(layer.C))]


@layer_systems.register
def _(layer: RotationSSM) -> list[SystemTensors]:
    log_radius = nn.functional.logsigmoid(_double(layer.rho_logit))
    log_A = torch.complex(log_radius, _double(layer.theta))
    return [SystemTensors(log_A, _complex(layer.input_matrix()), _complex(layer.output_matrix()))]


@layer_systems.register
def _(layer: S4D) -> list[SystemTensors]:
    discrete = layer.discrete()
    log_A, B, C = discrete.log_eigenvalues().cpu(), discrete.factor().cpu(), 2.0 * _complex(layer.C)
    used = (int(count) for count in layer.channel_states)
    return [SystemTensors(log_A[h, :n], B[h, :n, None], C[h, None, :n]) for h, n in enumerate(used)]


def _double(parameter: Tensor) -> Tensor:
    return parameter.to("cpu", torch.float64)


def _complex(pair: Tensor) -> Tensor:
    return torch.complex(*_double(pair))
