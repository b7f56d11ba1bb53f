"""The selective recurrence as a PyTorch operator: gradients, shapes for tracing, autocast.

As a registered operator it is one node to ``torch.compile`` and ``torch.export``.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from compressm.scan.selective import cpu
from compressm.scan.selective.arguments import check_decays
from compressm.scan.selective.cpu import Gradients


def _kernels(u: Tensor) -> Any:
    """The module whose ``scan_forward`` and ``scan_backward`` serve u's device."""
    return cpu if u.device.type == "cpu" else importlib.import_module("compressm.scan.selective.triton")


@torch.library.custom_op("compressm::selective_scan", mutates_args=())
def selective_scan_op(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    state: Tensor | None,
    softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs, final state, and with ``keep`` what the backward pass starts from."""
    check_decays(A)
    y, final, plain, before = _kernels(u).scan_forward(
        u, delta, A, B, C, D, z, bias, state, softplus=softplus, keep=keep
    )
    return y, final, plain, before


@selective_scan_op.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    state: Tensor | None,
    softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del delta, B, C, D, bias, state, softplus
    plain, before = _kernels(u).kept_sizes(u, A.shape[1], gated=z is not None, keep=keep)
    final = A.new_empty(u.shape[0], *A.shape)
    return u.new_empty(u.shape), final, A.new_empty(plain), A.new_empty(before)


@torch.library.custom_op("compressm::selective_scan_backward", mutates_args=())
def selective_scan_backward_op(
    grad_y: Tensor | None,
    grad_final: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    plain: Tensor,
    before: Tensor,
    softplus: bool,
) -> Gradients:
    """Gradients of u, delta, A, B, C, D, z, bias and the initial state, whether given or not."""
    grads: Gradients = _kernels(u).scan_backward(
        grad_y, grad_final, u, delta, A, B, C, D, z, bias, plain, before, softplus=softplus
    )
    return grads


@selective_scan_backward_op.register_fake
def _(
    grad_y: Tensor | None,
    grad_final: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    plain: Tensor,
    before: Tensor,
    softplus: bool,
) -> Gradients:
    del grad_y, grad_final, D, bias, plain, before, softplus
    like_u, vector = u.new_empty(u.shape), A.new_empty(u.shape[2])
    grad_z = u.new_empty(0) if z is None else z.new_empty(z.shape)
    grad_A, grad_B, grad_C = A.new_empty(A.shape), B.new_empty(B.shape), C.new_empty(C.shape)
    grad_state = A.new_empty(u.shape[0], *A.shape)
    grad_delta, grad_bias = delta.new_empty(delta.shape), torch.empty_like(vector)
    return like_u, grad_delta, grad_A, grad_B, grad_C, vector, grad_z, grad_bias, grad_state


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    *operands, state, ctx.softplus, _ = inputs
    ctx.save_for_backward(*operands, output[2], output[3])
    ctx.given = [x is not None for x in (*operands, state)]
    # A loss that ignores the final state must not pay for its gradient.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad_y is None and grad_final is None:
        return (None,) * 11
    grads = selective_scan_backward_op(grad_y, grad_final, *ctx.saved_tensors, ctx.softplus)
    return *(grad if given else None for grad, given in zip(grads, ctx.given, strict=True)), None, None


selective_scan_op.register_autograd(_backward, setup_context=_setup)
for _device in ("cpu", "cuda"):
    # exp(delta A) and the recurrence need float32's digits: half precision stops at the operator's border.
    selective_scan_op.register_autocast(_device, torch.float32)
