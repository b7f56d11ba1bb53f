"""The recurrence as a PyTorch operator: gradients, shapes for tracing, autocast.

As a registered operator the recurrence is one node to ``torch.compile`` and ``torch.export``, whatever runs
inside it. Only real tensors cross its border.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from compressm.scan.lti import convolution, cost, cpu, portable
from compressm.scan.runtime.card import on_card

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _kernels(u: Tensor) -> Any:
    """The module whose ``scan_forward`` and ``scan_backward`` serve u's device."""
    if on_card(u):
        return importlib.import_module("compressm.scan.lti.triton")
    return cpu if u.device.type == "cpu" else portable


@torch.library.custom_op("compressm::lti_scan", mutates_args=())
def lti_scan_op(
    u: Tensor,
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    form: str,
    keep: str,
    reverse: bool,
    half: bool,
    final: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, final state (or zeros, not ``final``), and what the backward of "scan" was told to keep.

    A direct path D is for CPUs, whose kernels add it while they have its rows at hand.
    """
    u, lam, B, C = u.contiguous(), lam.contiguous(), B.contiguous(), C.contiguous()
    direct = {} if D is None else {"D": D.contiguous()}
    if form == "auto":
        device = u.device.type
        form = cost.choose_form(
            cost.Shape.of(u, C), training=False, threads=cost.threads_of(device), device=device, dtype=u.dtype
        )
    if form == "convolution":
        y, last = convolution.convolution_forward(u, lam, B, C, state, reverse=reverse, final=final)
        return y if D is None else y.addcmul_(u, D), last, u.new_empty(0)
    y, last, kept = _kernels(u).scan_forward(
        u, lam, B, C, state, reverse=reverse, keep=keep, half=half, **direct
    )
    return y, last, kept


@lti_scan_op.register_fake
def _(
    u: Tensor,
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    form: str,
    keep: str,
    reverse: bool,
    half: bool,
    final: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    del B, D, state, reverse, final
    batch, length, _ = u.shape
    N = lam.shape[1]
    kept = u.new_empty(0) if form == "convolution" else _kernels(u).new_kept(u, C, keep, half=half)
    return u.new_empty(batch, length, C.shape[1]), lam.new_empty(batch, 2, N), kept


@torch.library.custom_op("compressm::lti_scan_backward", mutates_args=())
def lti_scan_backward_op(
    grad_y: Tensor | None,
    grad_final: Tensor | None,
    u: Tensor,
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    kept: Tensor,
    form: str,
    keep: str,
    reverse: bool,
    half: bool,
) -> Gradients:
    """Gradients of u, lambda, B, C, D (empty without one) and the initial state (zeros if there is none)."""
    u, lam, B, C = u.contiguous(), lam.contiguous(), B.contiguous(), C.contiguous()
    grad_y = None if grad_y is None else grad_y.contiguous()
    grad_D = u.new_empty(0) if D is None else torch.empty_like(D)
    if form == "convolution":
        grads = convolution.convolution_backward(grad_y, grad_final, u, lam, B, C, state, reverse=reverse)
        cpu.direct_gradients(grads[0], grad_y, u, D, grad_D)
    else:
        direct = {} if D is None else {"D": D.contiguous(), "grad_D": grad_D}
        grads = _kernels(u).scan_backward(
            grad_y, grad_final, u, lam, B, C, state, kept, reverse=reverse, keep=keep, half=half, **direct
        )
    grad_u, grad_lam, grad_B, grad_C, grad_state = grads
    return grad_u, grad_lam, grad_B, grad_C, grad_D, grad_state


@lti_scan_backward_op.register_fake
def _(
    grad_y: Tensor | None,
    grad_final: Tensor | None,
    u: Tensor,
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    kept: Tensor,
    form: str,
    keep: str,
    reverse: bool,
    half: bool,
) -> Gradients:
    del grad_y, grad_final, state, kept, form, keep, reverse, half
    grad_state = lam.new_empty(u.shape[0], 2, lam.shape[1])
    return (
        u.new_empty(u.shape),
        lam.new_empty(lam.shape),
        B.new_empty(B.shape),
        C.new_empty(C.shape),
        u.new_empty(0 if D is None else D.shape),
        grad_state,
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    u, lam, B, C, D, state, ctx.form, ctx.keep, ctx.reverse, ctx.half, _ = inputs
    ctx.save_for_backward(u, lam, B, C, D, state, output[2])
    # A loss that ignores the final state must not pay for its gradient.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None, _: Any) -> tuple[Any, ...]:
    u, lam, B, C, D, state, kept = ctx.saved_tensors
    if grad_y is None and grad_final is None:
        return (None,) * 11
    *grads, grad_D, grad_state = lti_scan_backward_op(
        grad_y, grad_final, u, lam, B, C, D, state, kept, ctx.form, ctx.keep, ctx.reverse, ctx.half
    )
    given = (None if D is None else grad_D, None if state is None else grad_state)
    return *grads, *given, None, None, None, None, None


lti_scan_op.register_autograd(_backward, setup_context=_setup)
for _device in ("cpu", "cuda"):
    # lambda's powers and the recurrence need float32's digits: half precision stops at the op's border.
    lti_scan_op.register_autocast(_device, torch.float32)
