"""Linear attention on a CPU in float32: operands brought into the kernels' order, and back.

A step costs three operations on each element of a state, as many as the products of a chunked form at their
best, and no pass over memory but those over operands and results.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.scan.runtime import Kernel, run_kernel
from compressm.scan.runtime.widths import DOUBLE, HALF, LANES
from compressm.scan.ssd.recurrent_layout import blocks_of, chunks_of, groups_of, width_of

_MODULE = "compressm.scan.ssd.recurrent_kernels"
_NAMES = {DOUBLE: "doubles", LANES: "vectors", HALF: "parts"}
_FORWARD = {width: Kernel(_MODULE, f"forward_{name}") for width, name in _NAMES.items()}
_BACKWARD = {width: Kernel(_MODULE, f"backward_{name}") for width, name in _NAMES.items()}

SMALL = 1 << 16  # elements of states times steps: less is done before a second thread has started

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def kept_size(q: Tensor, v: Tensor) -> int:
    """Elements of the states that the backward pass starts from."""
    (batch, L, heads, K), V = q.shape, v.shape[3]
    return batch * heads * chunks_of(L) * K * blocks_of(V) * width_of(V)


def scan_forward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, *, scale: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, final state, and with ``keep`` the states that :func:`scan_backward` starts from."""
    q, k, V = _rows(q), _rows(k), v.shape[3]
    padded, S = _pad(v), _pack(state, q, V)
    y, before = torch.empty_like(padded), q.new_empty(kept_size(q, v) if keep else 0)
    sizes = [*_sizes(q, V, log_decay), int(keep)]
    tensors = (_factor(scale), q, k, log_decay.contiguous(), padded, y, S, before)
    words = [*sizes, *_strides(q), *_strides(k), *(x.data_ptr() for x in tensors)]
    run_kernel(_FORWARD[width_of(V)], words, _workers(q, V))
    return y[..., :V].contiguous(), _unpack(S, V), before


def scan_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, entering: Tensor, *, scale: float,
) -> Gradients:  # fmt: skip
    """Gradients of q, k, v, the logarithms of decays, and the initial state."""
    q, k, V = _rows(q), _rows(k), v.shape[3]
    padded, carry = _pad(v), _pack(grad_final, q, V)
    grad_y = torch.zeros_like(padded) if grad_y is None else _pad(grad_y)
    groups = groups_of(q.shape[0] * q.shape[2], V)
    grad_q, grad_k, grad_decay = (x.new_empty(groups, *x.shape) for x in (q, k, log_decay))
    grad_v = torch.empty_like(padded)
    tensors = (_factor(scale), q, k, log_decay.contiguous(), padded, entering, grad_y)
    grads = (grad_q, grad_k, grad_decay, grad_v, carry)
    words = [*_sizes(q, V, log_decay), 1, *_strides(q), *_strides(k)]
    run_kernel(_BACKWARD[width_of(V)], [*words, *(x.data_ptr() for x in (*tensors, *grads))], _workers(q, V))
    whole_q, whole_k, whole_decay = (x[0] if groups == 1 else x.sum(0) for x in (grad_q, grad_k, grad_decay))
    return whole_q, whole_k, grad_v[..., :V].contiguous(), whole_decay, _unpack(carry, V)


def _sizes(q: Tensor, V: int, log_decay: Tensor) -> list[int]:
    batch, L, heads, K = q.shape
    rates = 1 if log_decay.ndim == 3 else K
    return [batch, L, heads, K, rates, blocks_of(V), groups_of(batch * heads, V)]


def _strides(x: Tensor) -> list[int]:
    """From sequence to sequence, step to step, head to head."""
    return list(x.stride()[:3])


def _rows(x: Tensor) -> Tensor:
    """The same numbers with channels side by side; heads, steps and sequences may lie anywhere."""
    return x if x.stride(3) == 1 else x.contiguous()


def _factor(scale: float) -> Tensor:
    return torch.tensor([scale], dtype=torch.float32)


def _pad(x: Tensor) -> Tensor:
    """Zeros appended to the last axis up to whole vectors; contiguous."""
    missing = -x.shape[-1] % width_of(x.shape[-1])
    return F.pad(x, (0, missing)).contiguous() if missing else x.contiguous()


def _pack(state: Tensor | None, like: Tensor, V: int) -> Tensor:
    """A copy of a state (batch, heads, K, V) as (batch, heads, blocks, K, width); zero if None."""
    (batch, _, heads, K), blocks, width = like.shape, blocks_of(V), width_of(V)
    if state is None:
        return like.new_zeros(batch, heads, blocks, K, width)
    by_block = _pad(state).view(batch, heads, K, blocks, width).transpose(2, 3)
    return by_block.clone(memory_format=torch.contiguous_format)


def _unpack(packed: Tensor, V: int) -> Tensor:
    """What :func:`_pack` makes, back; contiguous."""
    return packed.transpose(2, 3).flatten(3)[..., :V].clone(memory_format=torch.contiguous_format)


def _workers(q: Tensor, V: int) -> int:
    items = q.shape[0] * q.shape[2] * groups_of(q.shape[0] * q.shape[2], V)
    return 1 if q.numel() * V < SMALL else min(torch.get_num_threads(), items)
