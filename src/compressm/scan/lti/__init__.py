"""The linear time-invariant recurrence ``x_k = lambda x_{k-1} + B u_k``, ``y_k = Re(C x_k)``.

``reference`` is the ground truth. ``convolution`` (with ``impulse`` and ``tails``) and ``cpu`` (with the
kernels in ``recurrence``) are fast forms of it, ``portable`` serves devices without kernels, ``ops`` makes
them an operator of PyTorch, and ``cost`` chooses among them.
"""

import torch
from torch import Tensor

from compressm.scan.lti.arguments import FORMS, check_form, check_operands
from compressm.scan.lti.calibration import calibrate
from compressm.scan.lti.cost import Shape, choose_form, threads_of, what_to_keep
from compressm.scan.lti.ops import lti_scan_op
from compressm.scan.lti.reference import reference_scan


def lti_scan(
    u: Tensor,
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None = None,
    *,
    form: str = "auto",
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run ``x_k = lambda x_{k-1} + B u_k``, ``y_k = Re(C x_k)`` over a batch of sequences.

    Complex operands are real pairs, planar: real parts first, then imaginary parts. The output of step k
    contains the input of step k. Differentiable once by every operand, through outputs and final state.

    Args:
        u: inputs, (batch, L, H), float32 or float64.
        lam: eigenvalues, (2, N).
        B: input matrix, (2, N, H).
        C: output matrix, (2, P, N).
        state: the state before the first step, (batch, 2, N); zero if None.
        form: how to compute it. "scan" runs the recurrence, "convolution" multiplies spectra, "reference"
            takes one step after the other in plain PyTorch; "auto" takes the form that a cost model expects
            to be fastest here (see :mod:`compressm.scan.lti.cost`). All are exact up to rounding.
        reverse: run time backwards: the first step is k = L - 1, and ``x_k`` follows from ``x_{k+1}``.

    Returns:
        Outputs y, (batch, L, P), and the state after the last step, (batch, 2, N). Under ``torch.autocast``
        both are float32: the recurrence does not survive half precision.

    Raises:
        TypeError: an operand's dtype does not fit.
        ValueError: a shape or device does not fit, or ``form`` is unknown.
    """
    check_form(form)
    device = u.device.type if isinstance(u, Tensor) else "cpu"
    if torch.is_autocast_enabled(device):
        u, lam, B, C = (_at_least_float32(x) for x in (u, lam, B, C))
        state = None if state is None else _at_least_float32(state)
    check_operands(u, lam, B, C, state)
    if form == "reference":
        with torch.autocast(device, enabled=False):
            return reference_scan(u, lam, B, C, state, reverse=reverse)
    training = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (u, lam, B, C, state)
    )
    shape = Shape.of(u, C)
    # A graph for inference may serve any length: there the operator chooses, each time it runs.
    if form == "auto" and (training or not torch.compiler.is_compiling()):
        form = choose_form(shape, training=training, threads=threads_of(device))
    keep = what_to_keep(shape) if training and form == "scan" else "nothing"
    y, final, _ = lti_scan_op(u, lam, B, C, state, form, keep, reverse)
    return y, final


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


__all__ = ["FORMS", "calibrate", "lti_scan"]
