"""Linear attention on compiled kernels as a PyTorch operator: gradients, shapes for tracing, autocast.

As a registered operator it is one node to ``torch.compile`` and ``torch.export``. Where nobody watches, a
node of autograd calls the kernels of CPUs directly. The form "chunked" needs neither: it is made of PyTorch's
own operators.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from compressm.scan.runtime.tracing import observed, plain
from compressm.scan.ssd import recurrent
from compressm.scan.ssd.packing import kept_size
from compressm.scan.ssd.triton_plan import steps_of_chunk

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _kernels(q: Tensor) -> Any:
    """The module whose ``scan_forward`` and ``scan_backward`` serve q's device."""
    return recurrent if q.device.type == "cpu" else importlib.import_module("compressm.scan.ssd.triton")


def _kept_size(q: Tensor, v: Tensor, log_decay: Tensor) -> int:
    """Elements of the states that the backward pass starts from."""
    if q.device.type == "cpu":
        return kept_size(q, v.shape[3])
    batch, L, heads, K = q.shape
    return batch * heads * -(-L // steps_of_chunk(log_decay)) * K * v.shape[3]


@torch.library.custom_op("compressm::linear_attention_scan", mutates_args=())
def linear_attention_op(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, scale: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, final state, and with ``keep`` the states that the backward pass starts from."""
    y, final, entering = _kernels(q).scan_forward(q, k, v, log_decay, state, scale=scale, keep=keep)
    return y, final, entering


@linear_attention_op.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, scale: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    del k, state, scale
    batch, _, heads, K = q.shape
    entering = q.new_empty(_kept_size(q, v, log_decay) if keep else 0)
    return v.new_empty(v.shape), q.new_empty(batch, heads, K, v.shape[3]), entering


@torch.library.custom_op("compressm::linear_attention_scan_backward", mutates_args=())
def linear_attention_backward_op(
    grad_y: Tensor | None,
    grad_final: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    entering: Tensor,
    scale: float,
) -> Gradients:
    """Gradients of q, k, v, the logarithms of decays and the initial state, whether given or not."""
    grads: Gradients = _kernels(q).scan_backward(
        grad_y, grad_final, q, k, v, log_decay, entering, scale=scale
    )
    return grads


@linear_attention_backward_op.register_fake
def _(
    grad_y: Tensor | None,
    grad_final: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    entering: Tensor,
    scale: float,
) -> Gradients:
    del grad_y, grad_final, entering, scale
    grad_q, grad_k, grad_v, grad_decay = (x.new_empty(x.shape) for x in (q, k, v, log_decay))
    batch, _, heads, K = q.shape
    return grad_q, grad_k, grad_v, grad_decay, q.new_empty(batch, heads, K, v.shape[3])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *operands, state, ctx.scale, _ = inputs
    ctx.save_for_backward(*operands, output[2])
    ctx.has_state = state is not None
    # A loss that ignores the final state must not pay for its gradient.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None, _: Any) -> tuple[Any, ...]:
    if grad_y is None and grad_final is None:
        return (None,) * 7
    *grads, grad_state = linear_attention_backward_op(grad_y, grad_final, *ctx.saved_tensors, ctx.scale)
    return *grads, grad_state if ctx.has_state else None, None, None


linear_attention_op.register_autograd(_backward, setup_context=_setup)
# The recurrence does not survive half precision: it stops at the operator's border.
for _device in ("cpu", "cuda"):
    linear_attention_op.register_autocast(_device, torch.float32)


def scan_on_kernels(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, scale: float, keep: bool
) -> tuple[Tensor, Tensor]:
    """Outputs and final state, by :func:`linear_attention_op` or without it."""
    operands = (q, k, v, log_decay, state)
    if observed() or not plain(*operands):
        y, final, _ = linear_attention_op(*operands, scale, keep)
    elif keep:
        y, final = _Node.apply(*operands, scale)  # type: ignore[no-untyped-call]
    else:
        y, final, _ = recurrent.scan_forward(*operands, scale=scale, keep=False)
    return y, final


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        y, final, entering = recurrent.scan_forward(q, k, v, log_decay, state, scale=scale, keep=True)
        ctx.save_for_backward(q, k, v, log_decay, entering)
        ctx.scale, ctx.has_state = scale, state is not None
        # A loss that ignores the final state must not pay for its gradient.
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_y is None and grad_final is None:
            return (None,) * 6
        *grads, grad_state = recurrent.scan_backward(grad_y, grad_final, *ctx.saved_tensors, scale=ctx.scale)
        return *grads, grad_state if ctx.has_state else None, None
