"""The CUDA kernel of mamba-ssm, for inference where it is installed.

Its backward pass ignores the gradient of the final state, which would be silently wrong here; so in training
the kernels of this package serve, and this one only where nothing is differentiated. It knows no initial
state, and takes at most 256 states per channel. Time comes last for it, channels before.
"""

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MODULE = "mamba_ssm.ops.selective_scan_interface"
MAX_STATES = 256


def serves(u: Tensor, A: Tensor, state: Tensor | None) -> bool:
    """Whether the stock kernel is installed and takes these operands, if none is differentiated."""
    fits = u.device.type == "cuda" and u.dtype == torch.float32 and state is None
    return fits and A.shape[1] <= MAX_STATES and stock_function() is not None


@functools.cache
def stock_function() -> Callable[..., Any] | None:
    """mamba-ssm's ``selective_scan_fn``, or None where it is not installed; warns if it does not import."""
    if importlib.util.find_spec(MODULE.partition(".")[0]) is None:
        return None
    try:
        function: Callable[..., Any] = importlib.import_module(MODULE).selective_scan_fn
    except ImportError as error:
        warnings.warn(
            f"mamba-ssm is installed but {MODULE} cannot be imported ({error}), so selective_scan runs on "
            "compressm's own kernels; reinstall mamba-ssm for this PyTorch to use its kernel",
            stacklevel=2,
        )
        return None
    return function


def stock_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, *, delta_softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Outputs and final state of :func:`compressm.scan.selective_scan`; without gradients.

    Raises:
        RuntimeError: mamba-ssm is not installed; :func:`serves` tells.
    """
    function = stock_function()
    if function is None:
        raise RuntimeError(f"stock_scan: {MODULE} is not installed; ask serves() first")
    y, final = function(
        u.mT, delta.mT, A, B.mT, C.mT, D=D, z=None if z is None else z.mT, delta_bias=delta_bias,
        delta_softplus=delta_softplus, return_last_state=True,
    )  # fmt: skip
    return y.mT.contiguous(), final
