"""The selective recurrence of Mamba: ``h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t``, ``y_t = C_t h_t``.

``reference`` is the ground truth, on any device. ``cpu`` is the fast form: two kernels, written with
``vectors``, ``functions`` and ``channels``, on operands in the order that ``layout`` makes. ``triton`` (with
``triton_kernels``) is that of CUDA devices, ``stock`` mamba-ssm's kernel where it is installed. ``ops`` makes
ours an operator of PyTorch.
"""

import contextlib

import torch
from torch import Tensor

from compressm.scan.precision import at_least_float32
from compressm.scan.runtime.card import on_card
from compressm.scan.selective.arguments import (
    FORMS,
    check_decays,
    check_form,
    check_operands,
    served,
)
from compressm.scan.selective.ops import selective_scan_op
from compressm.scan.selective.reference import reference_scan
from compressm.scan.selective.stock import serves, stock_scan


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    state: Tensor | None = None,
    *,
    form: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run ``h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t``, ``y_t = C_t h_t + D u_t`` over a batch.

    The recurrence of Mamba (Gu and Dao 2023, algorithm 2): each of d channels has N states of its own, whose
    inputs and outputs B_t and C_t it shares with the other channels. Time comes before channels, (batch, L,
    d), as linear layers have it; the stock CUDA function takes ``u.mT``, ``delta.mT``, ``B.mT``, ``C.mT`` and
    ``z.mT``, each (batch, channels, L), and the same A. Differentiable once by every operand, through
    outputs and final state.

    Args:
        u: inputs, (batch, L, d), float32 or float64. The last axis should be contiguous; rows of u, delta and
            z may be parts of longer ones, such as slices of a projection, which a GPU reads where they lie.
        delta: time steps, (batch, L, d).
        A: rates of the states, (d, N), none positive: ``-exp(A_log)``, not its logarithm.
        B: input weights, (batch, L, N).
        C: output weights, (batch, L, N).
        D: weights of a direct path from input to output, (d,).
        z: gate, (batch, L, d): outputs are multiplied by ``silu(z)``.
        delta_bias: added to delta, (d,).
        delta_softplus: take ``softplus(delta + delta_bias)`` as time steps.
        state: the state before the first step, (batch, d, N); zero if None.
        form: "scan" runs compiled kernels (float32 on a CPU, or on a CUDA device where Triton is installed;
            memory for one state in 32 steps), "reference" takes one step after the other in plain PyTorch,
            "auto" takes "scan" where it serves; for inference from a zero state on a CUDA device, the kernel
            of mamba-ssm where that is installed.

    Returns:
        Outputs y, (batch, L, d), and the state after the last step, (batch, d, N). Under ``torch.autocast``
        both are float32, because the recurrence does not survive half precision. On a CUDA device with Triton
        u, delta, B, C and z may be bfloat16, with autocast or without, and become float32 where they are
        read; outputs are then of u's type.

    Raises:
        TypeError: an operand's dtype does not fit.
        ValueError: a shape or device does not fit, an entry of A is positive (looked at on a CPU alone),
            ``form`` is unknown or does not serve the operands.
    """
    device = u.device.type if isinstance(u, Tensor) else "cpu"
    if torch.is_autocast_enabled(device):
        u, delta, B, C = (as_read(x) for x in (u, delta, B, C))
        z = None if z is None else as_read(z)
        A = at_least_float32(A)
        D, delta_bias, state = (None if x is None else at_least_float32(x) for x in (D, delta_bias, state))
    check_operands(u, delta, A, B, C, D, z, delta_bias, state)
    check_form(form, u)
    if form == "reference" or not served(u):
        u, delta, B, C = (at_least_float32(x) for x in (u, delta, B, C))
        z = None if z is None else at_least_float32(z)
    given = (u, delta, A, B, C, D, z, delta_bias, state)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    compiling = torch.compiler.is_compiling()
    if form == "auto" and not keep and not compiling and serves(u, A, state):
        check_decays(A)
        with torch.no_grad():
            return stock_scan(*given[:-1], delta_softplus=delta_softplus)
    if form == "scan" or (form == "auto" and served(u)):
        # Operands are of the types that the kernels read: autocast would widen rows.
        with torch.autocast(device, enabled=False) if on_card(u) else contextlib.nullcontext():
            y, final, _, _ = selective_scan_op(*given, delta_softplus, keep)
        return y, final
    if not compiling:
        check_decays(A)
    with torch.autocast(device, enabled=False):
        return reference_scan(*given, delta_softplus=delta_softplus)


def as_read(x: Tensor) -> Tensor:
    """What has a row for each step as the kernels of its device read it, at least bfloat16."""
    return x if on_card(x) and x.dtype == torch.bfloat16 else at_least_float32(x)


__all__ = ["FORMS", "selective_scan"]
