"""The gate of a feed-forward part, in one pass over memory for each direction on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.models.pointwise import WORTH_A_KERNEL
from compressm.scan.runtime import STORED, Kernel, run_kernel, stored
from compressm.scan.runtime.tracing import observed, plain

_MODULE = "compressm.models.pointwise_kernels"
_FORWARD, _BACKWARD = stored(_MODULE, "swiglu"), stored(_MODULE, "swiglu_backward")
_SMALL = 1 << 15  # below this, threads cost more than they bring


def swiglu(both: Tensor) -> Tensor:
    """``silu(gate) * value``, for ``both = [gate, value]`` ``(..., 2 K)`` (Shazeer 2020, arXiv 2002.05202).

    Kernels serve float32 and bfloat16 on a CPU, outside of tracing, and compute in float32; PyTorch does the
    rest.
    """
    if observed() or both.numel() < WORTH_A_KERNEL or not plain(both, dtypes=tuple(STORED)):
        gate, value = both.chunk(2, dim=-1)
        return F.silu(gate) * value
    out: Tensor = _SwiGLU.apply(both)  # type: ignore[no-untyped-call]
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        both = both.contiguous()
        out = both.new_empty(*both.shape[:-1], both.shape[-1] // 2)
        _run(_FORWARD[both.dtype], both, out)
        ctx.save_for_backward(both)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        grad_both = torch.empty_like(both)
        _run(_BACKWARD[both.dtype], both, grad.contiguous(), grad_both)
        return grad_both


def _run(kernel: Kernel, both: Tensor, *others: Tensor) -> None:
    width = both.shape[-1] // 2
    words = [both.numel() // (2 * width), width, *(x.data_ptr() for x in (both, *others))]
    run_kernel(kernel, words, torch.get_num_threads() if both.numel() >= _SMALL else 1)
