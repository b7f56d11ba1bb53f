"""Linear attention on a CPU in float32: operands brought into the kernels' order, and back.

A step costs three operations on each element of a state, as many as the products of a chunked form at their
best, and no pass over memory but those over operands and results.
"""

import torch
from torch import Tensor

from compressm.scan.runtime import run_kernel
from compressm.scan.ssd.packing import (
    factor,
    kept_size,
    kernels_by_width,
    pack,
    pad,
    rows_of,
    strides_of,
    sum_groups,
    unpack,
    workers_for,
)
from compressm.scan.ssd.recurrent_layout import blocks_of, groups_of, width_of

_MODULE = "compressm.scan.ssd.recurrent_kernels"
_FORWARD, _BACKWARD = kernels_by_width(_MODULE, "forward"), kernels_by_width(_MODULE, "backward")

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def scan_forward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, *, scale: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, final state, and with ``keep`` the states that :func:`scan_backward` starts from."""
    q, k, V = rows_of(q), rows_of(k), v.shape[3]
    padded, S = pad(v), pack(state, q, V)
    y, before = torch.empty_like(padded), q.new_empty(kept_size(q, V) if keep else 0)
    sizes = [*_sizes(q, V, log_decay), int(keep)]
    tensors = (factor(scale), q, k, log_decay.contiguous(), padded, y, S, before)
    words = [*sizes, *strides_of(q), *strides_of(k), *(x.data_ptr() for x in tensors)]
    run_kernel(_FORWARD[width_of(V)], words, workers_for(q, V))
    return y[..., :V].contiguous(), unpack(S, V), before


def scan_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, entering: Tensor, *, scale: float,
) -> Gradients:  # fmt: skip
    """Gradients of q, k, v, the logarithms of decays, and the initial state."""
    q, k, V = rows_of(q), rows_of(k), v.shape[3]
    padded, carry = pad(v), pack(grad_final, q, V)
    grad_y = torch.zeros_like(padded) if grad_y is None else pad(grad_y)
    groups = groups_of(q.shape[0] * q.shape[2], V)
    grad_q, grad_k, grad_decay = (x.new_empty(groups, *x.shape) for x in (q, k, log_decay))
    grad_v = torch.empty_like(padded)
    tensors = (factor(scale), q, k, log_decay.contiguous(), padded, entering, grad_y)
    grads = (grad_q, grad_k, grad_decay, grad_v, carry)
    words = [*_sizes(q, V, log_decay), 1, *strides_of(q), *strides_of(k)]
    run_kernel(
        _BACKWARD[width_of(V)], [*words, *(x.data_ptr() for x in (*tensors, *grads))], workers_for(q, V)
    )
    whole_q, whole_k, whole_decay = (sum_groups(x) for x in (grad_q, grad_k, grad_decay))
    return whole_q, whole_k, grad_v[..., :V].contiguous(), whole_decay, unpack(carry, V)


def _sizes(q: Tensor, V: int, log_decay: Tensor) -> list[int]:
    batch, L, heads, K = q.shape
    rates = 1 if log_decay.ndim == 3 else K
    return [batch, L, heads, K, rates, blocks_of(V), groups_of(batch * heads, V)]
