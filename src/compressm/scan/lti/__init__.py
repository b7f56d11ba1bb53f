"""The linear time-invariant recurrence ``x_k = lambda x_{k-1} + B u_k``, ``y_k = Re(C x_k)``.

``reference`` is the ground truth. ``convolution`` (with ``impulse`` and ``tails``) and ``cpu`` are fast forms
of it; the latter's kernels are in ``recurrence``, and for few channels in ``few_channels_kernels``.
``triton`` (with ``triton_kernels``) serves CUDA devices, ``portable`` devices without kernels, ``ops`` makes
them an operator of PyTorch, and ``cost`` chooses among them.
"""

import contextlib

import torch
from torch import Tensor

from compressm.scan.lti.arguments import FORMS, check_form, check_operands
from compressm.scan.lti.calibration import calibrate
from compressm.scan.lti.cost import Shape, choose_form, threads_of, what_to_keep
from compressm.scan.lti.ops import lti_scan_op
from compressm.scan.lti.portable import states_of
from compressm.scan.lti.reference import reference_scan
from compressm.scan.precision import at_least_float32
from compressm.scan.runtime.card import on_card

HALF_CHANNELS = 64
"""Channels from which on products in bfloat16 are worth the rounding of their operands."""


def lti_scan(
    u: Tensor,
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None = None,
    *,
    form: str = "auto",
    reverse: bool = False,
    final: bool = True,
    D: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run ``x_k = lambda x_{k-1} + B u_k``, ``y_k = Re(C x_k) + D u_k`` over a batch of sequences.

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
        final: whether the final state is wanted. Without it the form "convolution" saves its making, and what
            is returned in its place means nothing.
        D: weights of a direct path from each input to the output of the same channel, (H,) with P = H; none
            if None.

    Returns:
        Outputs y, (batch, L, P), and the state after the last step, (batch, 2, N). Under ``torch.autocast``
        the recurrence is computed in float32, as it does not survive half precision, and so is the state. In
        bfloat16 the operands and results of the products with B and C are rounded where these are large: on a
        processor that has bfloat16, outputs being float32, and on a CUDA device, outputs being bfloat16.

    Raises:
        TypeError: an operand's dtype does not fit.
        ValueError: a shape or device does not fit, or ``form`` is unknown.
    """
    check_form(form)
    device = u.device.type if isinstance(u, Tensor) else "cpu"
    half = isinstance(u, Tensor) and isinstance(C, Tensor) and C.ndim == 3 and halves(u, C.shape[1])
    card = half and on_card(u)  # whose kernels take inputs in bfloat16
    if torch.is_autocast_enabled(device):
        u = u if card else at_least_float32(u)
        lam, B, C = (at_least_float32(x) for x in (lam, B, C))
        D, state = (None if x is None else at_least_float32(x) for x in (D, state))
    check_operands(u, lam, B, C, state, D, half=half)
    if form == "reference":
        with torch.autocast(device, enabled=False):
            y, last = reference_scan(u.to(lam.dtype), lam, B, C, state, reverse=reverse)
        return _with_direct(y, u, D), last
    training = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (u, lam, B, C, D, state)
    )
    shape = Shape.of(u, C)
    # A graph for inference may serve any length: there the operator chooses, each time it runs.
    if form == "auto" and (training or not torch.compiler.is_compiling()):
        threads = threads_of(device)
        form = choose_form(shape, training=training, threads=threads, device=device, dtype=u.dtype)
    keep = what_to_keep(shape) if training and form == "scan" else "nothing"
    if card:
        half = form == "scan"
        u = u.to(torch.bfloat16 if half else lam.dtype)
    folded = D if device == "cpu" else None
    # On a card operands are of the types that the kernels read: autocast would widen u.
    with torch.autocast(device, enabled=False) if card else contextlib.nullcontext():
        y, last, _ = lti_scan_op(u, lam, B, C, folded, state, form, keep, reverse, half, final)
    return y if folded is D else _with_direct(y, u, D), last


def _with_direct(y: Tensor, u: Tensor, D: Tensor | None) -> Tensor:
    return y if D is None else torch.addcmul(y, u.to(y.dtype), D.to(y.dtype))


def halves(u: Tensor, outputs: int) -> bool:
    """Whether autocast has the products of :func:`lti_scan` in bfloat16 for inputs u and so many outputs."""
    device = u.device.type
    if not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) != torch.bfloat16:
        return False
    return (
        (device == "cpu" or on_card(u))
        and u.dtype != torch.float64
        and max(u.shape[-1], outputs) >= HALF_CHANNELS
    )


@torch.no_grad()
def lti_states(
    u: Tensor, lam: Tensor, B: Tensor, state: Tensor | None = None, *, reverse: bool = False
) -> Tensor:
    """The states of the recurrence themselves, for statistics; without gradients.

    Args:
        u: inputs, (batch, L, H).
        lam: eigenvalues, (2, N).
        B: input matrix, (2, N, H).
        state: the state before the first step, (batch, 2, N); zero if None.
        reverse: run time backwards.

    Returns:
        States after each step, (batch, L, 2, N): ``2 N / H`` times the memory of the inputs.

    Raises:
        TypeError: an operand's dtype does not fit.
        ValueError: a shape or device does not fit.
    """
    check_operands(u, lam, B, B.mT, state)
    return states_of(u, lam, B, state, reverse=reverse)


__all__ = ["FORMS", "calibrate", "lti_scan", "lti_states"]
