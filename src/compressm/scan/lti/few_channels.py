"""The recurrence for few channels, on a CPU.

A library's matrix product is written for large operands: with eight channels it ran at a third of the speed
at which a processor core can multiply, and its results went through the second-level cache. These kernels do
the products themselves (:mod:`compressm.scan.lti.few_channels_kernels`).
"""

import torch
from torch import Tensor

from compressm.scan.lti.few_channels_layout import STEPS
from compressm.scan.runtime import Kernel, run_kernel
from compressm.scan.runtime.widths import HALF, LANES

MOST = 32
"""Above that many inputs or outputs, a library's matrix products are as fast."""

ITEMS = 16
"""Parts that the work is cut into at least, if there are so many blocks of states."""

_MODULE = "compressm.scan.lti.few_channels_kernels"
_FORWARD, _BACKWARD = Kernel(_MODULE, "forward"), Kernel(_MODULE, "backward")


def suits(H: int, P: int, dtype: torch.dtype) -> bool:
    """Whether these kernels are the fastest; depends on nothing that changes while a model runs."""
    return dtype == torch.float32 and max(H, P) <= MOST


def kept_shape(keep: str, batch: int, length: int, N: int) -> tuple[int, ...]:
    """Shape of what :func:`forward` keeps: the state before each chunk, unless ``keep`` is "nothing"."""
    return (0,) if keep == "nothing" else (batch, -(-length // STEPS), -(-N // HALF) * LANES)


def columns_of(batch: int, N: int) -> int:
    """Columns that divide the states of a sequence: a few sequences would leave threads without work.

    The number of threads has no say in them, so that it does not change the order of sums in outputs.
    """
    return min(-(-ITEMS // batch), -(-N // HALF))


def forward(
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, carry: Tensor, *, reverse: bool, keep: str
) -> tuple[Tensor, Tensor]:
    """Outputs, and what is kept; ``carry`` (batch, 2 N) becomes the final state."""
    (batch, length, _), (_, P, N) = u.shape, C.shape
    words, columns, workers = _layout(u, C, reverse=reverse, keep=keep)
    y, kept = u.new_empty(columns, batch, length, P), u.new_empty(kept_shape(keep, batch, length, N))
    operands = (u, lam, B, C, carry, y, kept)
    run_kernel(_FORWARD, [*words, *(x.data_ptr() for x in operands)], workers)
    return y.sum(0) if columns > 1 else y[0], kept


def backward(
    grad_y: Tensor | None, u: Tensor, lam: Tensor, B: Tensor, C: Tensor, carry: Tensor, kept: Tensor,
    *, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, lambda, B and C.

    ``carry`` (batch, 2 N) is the gradient of the final state, and becomes that of the initial one.
    """
    N = C.shape[2]
    words, columns, workers = _layout(u, C, reverse=reverse, keep="checkpoints")
    grad_u, grad_lam = u.new_empty(columns, *u.shape), torch.zeros(workers, 2, N, dtype=torch.float64)
    grad_B, grad_C = B.new_zeros(workers, *B.shape), C.new_zeros(workers, *C.shape)
    operands = (u, lam, B, C, carry, grad_y, kept, grad_u, grad_lam, grad_B, grad_C)
    run_kernel(_BACKWARD, [*words, *(0 if x is None else x.data_ptr() for x in operands)], workers)
    whole_u = grad_u.sum(0) if columns > 1 else grad_u[0]
    return whole_u, grad_lam.sum(0).to(lam.dtype), grad_B.sum(0), grad_C.sum(0)


def _layout(u: Tensor, C: Tensor, *, reverse: bool, keep: str) -> tuple[list[int], int, int]:
    """The words of a kernel before its operands, columns of work, workers."""
    (batch, length, H), (_, P, N), workers = u.shape, C.shape, torch.get_num_threads()
    columns = columns_of(batch, N)
    return [batch, length, H, P, N, int(reverse), int(keep != "nothing"), columns], columns, workers
