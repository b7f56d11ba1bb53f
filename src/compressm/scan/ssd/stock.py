"""The CUDA kernels of flash-linear-attention, where it is installed and they are faster here.

``chunk_simple_gla`` has one decay per head, ``chunk_gla`` one per key channel. Both differentiate through
outputs and final state. Their products of float32 are made in TF32, so they serve only where PyTorch's own
products may be (``torch.backends.cuda.matmul.fp32_precision`` is "tf32"). They subtract float32 sums of
logarithms over chunks of 64 steps, which costs stronger decays than :data:`STRONGEST` more digits than TF32
does. ``preference`` measures whether they are faster.
"""

import functools
import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

PACKAGE = "fla"
SCALAR = ("fla.ops.simple_gla", "chunk_simple_gla")
VECTOR = ("fla.ops.gla", "chunk_gla")
STRONGEST = -100.0


def serves(q: Tensor, log_decay: Tensor) -> bool:
    """Whether the stock kernels are installed and compute these operands as exactly as PyTorch may."""
    fits = q.device.type == "cuda" and q.dtype == torch.float32
    fits = fits and torch.backends.cuda.matmul.fp32_precision == "tf32"
    if not fits or stock_function(log_decay.ndim == 4) is None:
        return False
    return bool((log_decay >= STRONGEST).all())


@functools.cache
def stock_function(per_channel: bool) -> Callable[..., Any] | None:
    """The package's function, or None where it is not installed; warns if it does not import."""
    if importlib.util.find_spec(PACKAGE) is None:
        return None
    module, name = VECTOR if per_channel else SCALAR
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        warnings.warn(
            f"flash-linear-attention is installed but {module}.{name} cannot be imported ({error}), so "
            "linear_attention_scan runs on compressm's own kernels; install a flash-linear-attention that "
            "fits this PyTorch to use its kernels",
            stacklevel=2,
        )
        return None
    if "head_first" in inspect.signature(function).parameters:
        # Versions that have this option take heads before time unless told.
        return functools.partial(function, head_first=False)
    return function


def stock_scan(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, *, scale: float
) -> tuple[Tensor, Tensor]:
    """Outputs and final state of :func:`compressm.scan.linear_attention_scan`; differentiable.

    Raises:
        RuntimeError: flash-linear-attention is not installed; :func:`serves` tells.
    """
    function = stock_function(log_decay.ndim == 4)
    if function is None:
        raise RuntimeError("stock_scan: flash-linear-attention is not installed; ask serves() first")
    y, final = function(q, k, v, log_decay, scale=scale, initial_state=state, output_final_state=True)
    return y, final
