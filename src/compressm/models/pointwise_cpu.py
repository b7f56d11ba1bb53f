"""The pointwise parts of a block on a CPU: calls of the Numba kernels.

The residual stream and the outputs of a layer are float32; what products make and take may be bfloat16.
"""

import torch
from torch import Tensor

from compressm.scan.runtime import Kernel, run_kernel, stored

_SMALL = 1 << 14  # elements: below this, threads cost more than they bring

_KERNELS = "compressm.models.pointwise_kernels"
_GELU, _GELU_BACKWARD = stored(_KERNELS, "gelu_dropout"), stored(_KERNELS, "gelu_dropout_backward")
_GATE, _GATE_BACKWARD = stored(_KERNELS, "gate"), stored(_KERNELS, "gate_backward")
_GLU, _GLU_BACKWARD = stored(_KERNELS, "glu"), stored(_KERNELS, "glu_backward")


def gelu(y: Tensor, seed: Tensor, p: float, half: bool = False) -> Tensor:
    """``dropout(gelu(y))``, with ``half`` in bfloat16."""
    y = y.contiguous()
    out = torch.empty_like(y, dtype=torch.bfloat16 if half else y.dtype)
    _run(_GELU[out.dtype], [y.numel(), *dropout_words(seed, p)], y, out)
    return out


def gelu_backward(y: Tensor, grad: Tensor, seed: Tensor, p: float) -> Tensor:
    """Gradient of y."""
    y, grad = y.contiguous(), grad.contiguous()
    grad_y = torch.empty_like(y)
    _run(_GELU_BACKWARD[grad.dtype], [y.numel(), *dropout_words(seed, p)], y, grad, grad_y)
    return grad_y


def gate(x: Tensor, a: Tensor, b: Tensor, seed: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``."""
    x, a, b = x.contiguous(), a.contiguous(), b.contiguous()
    out = torch.empty_like(x)
    _run(_GATE[a.dtype], [x.numel(), *dropout_words(seed, p)], x, a, b, out)
    return out


def gate_backward(a: Tensor, b: Tensor, grad: Tensor, seed: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Gradients of a and b."""
    a, b, grad = a.contiguous(), b.contiguous(), grad.contiguous()
    grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
    _run(_GATE_BACKWARD[a.dtype], [a.numel(), *dropout_words(seed, p)], a, b, grad, grad_a, grad_b)
    return grad_a, grad_b


def glu(x: Tensor, both: Tensor, bias: Tensor, seed: Tensor, p: float) -> Tensor:
    """``x + dropout(a * sigmoid(b))``, a and b being the halves of ``both + bias``."""
    x, both = x.contiguous(), both.contiguous()
    out, words = torch.empty_like(x), [x.numel(), *dropout_words(seed, p), x.shape[-1]]
    _run(_GLU[both.dtype], words, x, both, bias.float().contiguous(), out)
    return out


def glu_backward(both: Tensor, bias: Tensor, grad: Tensor, seed: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Gradients of ``both`` and of the bias."""
    both, grad = both.contiguous(), grad.contiguous()
    grad_both, words = torch.empty_like(both), [grad.numel(), *dropout_words(seed, p), grad.shape[-1]]
    # Zeros, as there may be fewer workers than threads.
    shares = grad.new_zeros(_threads(grad.numel()), both.shape[-1], dtype=torch.float64)
    _run(_GLU_BACKWARD[both.dtype], words, both, bias.float().contiguous(), grad, grad_both, shares)
    return grad_both, shares.sum(0).to(bias.dtype)


def dropout_words(seed: Tensor, p: float) -> list[int]:
    """Seed, threshold and scale in units of 2^-32, as kernels read them."""
    threshold = min(round(p * 2**32), 2**32 - 1)
    scale = round(2**32 / (1 - threshold / 2**32))
    return [int(seed.item()), threshold, scale]


def _run(kernel: Kernel, words: list[int], *tensors: Tensor) -> None:
    """Run a kernel on as many threads as its elements, the first word, are worth."""
    run_kernel(kernel, [*words, *(tensor.data_ptr() for tensor in tensors)], _threads(words[0]))


def _threads(count: int) -> int:
    return torch.get_num_threads() if count >= _SMALL else 1
