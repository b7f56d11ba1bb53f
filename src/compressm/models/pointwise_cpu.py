"""The pointwise parts of a block on a CPU: calls of the Numba kernels.

The residual stream and the outputs of a layer are float32; what products make and take may be bfloat16.
"""

import torch
from torch import Tensor

from compressm.scan.runtime import Kernel, run_kernel, stored

ROW = 1024
_SMALL = 1 << 14  # elements: below this, threads cost more than they bring

_KERNELS = "compressm.models.pointwise_kernels"
_GELU, _GELU_BACKWARD = stored(_KERNELS, "gelu_dropout"), stored(_KERNELS, "gelu_dropout_backward")
_GATE, _GATE_BACKWARD = stored(_KERNELS, "gate"), stored(_KERNELS, "gate_backward")


def gelu(y: Tensor, seed: Tensor, p: float, half: bool = False) -> Tensor:
    """``dropout(gelu(y))``, with ``half`` in bfloat16."""
    y = y.contiguous()
    out = torch.empty_like(y, dtype=torch.bfloat16 if half else y.dtype)
    _run(_GELU[out.dtype], _dropout_words(y.numel(), seed, p), y, out)
    return out


def gelu_backward(y: Tensor, grad: Tensor, seed: Tensor, p: float) -> Tensor:
    """Gradient of y."""
    y, grad = y.contiguous(), grad.contiguous()
    grad_y = torch.empty_like(y)
    _run(_GELU_BACKWARD[grad.dtype], _dropout_words(y.numel(), seed, p), y, grad, grad_y)
    return grad_y


def gate(x: Tensor, a: Tensor, b: Tensor, seed: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``."""
    x, a, b = x.contiguous(), a.contiguous(), b.contiguous()
    out = torch.empty_like(x)
    _run_rows(_GATE[a.dtype], p, seed, x, False, x, a, b, out)
    return out


def gate_backward(a: Tensor, b: Tensor, grad: Tensor, seed: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Gradients of a and b."""
    a, b, grad = a.contiguous(), b.contiguous(), grad.contiguous()
    grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
    _run_rows(_GATE_BACKWARD[a.dtype], p, seed, grad, False, a, b, grad, grad_a, grad_b)
    return grad_a, grad_b


def glu(x: Tensor, both: Tensor, bias: Tensor | None, seed: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``, a and b being the halves of ``both + bias``."""
    x, both = x.contiguous(), _biased(both, bias)
    out = torch.empty_like(x)
    _run_rows(_GATE[both.dtype], p, seed, x, True, x, *_halves(both), out)
    return out


def glu_backward(
    both: Tensor, bias: Tensor | None, grad: Tensor, seed: Tensor, p: float
) -> tuple[Tensor, Tensor]:
    """Gradients of ``both`` and of the bias, which is empty if there is none."""
    biased, grad = _biased(both, bias), grad.contiguous()
    grad_both = torch.empty_like(biased)
    _run_rows(_GATE_BACKWARD[biased.dtype], p, seed, grad, True, *_halves(biased), grad, *_halves(grad_both))
    return grad_both, grad_both.new_empty(0) if bias is None else grad_both.flatten(0, -2).sum(0)


def _biased(both: Tensor, bias: Tensor | None) -> Tensor:
    return both.contiguous() if bias is None else (both + bias).to(both.dtype)


def _halves(both: Tensor) -> tuple[Tensor, Tensor]:
    """Views that begin where the halves of the first row do."""
    return both, both[..., both.shape[-1] // 2 :]


def _dropout_words(count: int, seed: Tensor, p: float) -> list[int]:
    threshold = min(round(p * 2**32), 2**32 - 1)
    scale = round(2**32 / (1 - threshold / 2**32))
    return [count, int(seed.item()), threshold, scale]


def _run(kernel: Kernel, words: list[int], *tensors: Tensor) -> None:
    threads = torch.get_num_threads() if tensors[0].numel() >= _SMALL else 1
    run_kernel(kernel, [*words, *(tensor.data_ptr() for tensor in tensors)], threads)


def _run_rows(kernel: Kernel, p: float, seed: Tensor, like: Tensor, joint: bool, *tensors: Tensor) -> None:
    """Run a kernel of the gate on rows like those of ``like``; ``joint``: a and b are halves of rows."""
    count, width = like.numel(), like.shape[-1]
    stride = 2 * width if joint else width
    if not joint:
        # Without gaps rows may be as long as is good for vectors and the cache.
        rows = count // width
        width = stride = width * max(k for k in range(1, max(1, ROW // width) + 1) if rows % k == 0)
    threads = torch.get_num_threads() if count >= _SMALL else 1
    words = [*_dropout_words(count, seed, p), width, stride]
    run_kernel(kernel, [*words, *(tensor.data_ptr() for tensor in tensors)], threads)
