"""Checks of the operands, with messages that name the argument, its value and the remedy."""

import torch
from torch import Tensor

from compressm.scan.runtime.card import on_card

FORMS = ("auto", "kernel", "reference")


def check_form(form: str, x: Tensor) -> None:
    """Raise unless ``form`` is one of :data:`FORMS` and serves x's device and dtype."""
    if form not in FORMS:
        raise ValueError(f"short_convolution: form={form!r} is not known; choose one of {', '.join(FORMS)}")
    if form == "kernel" and not served(x):
        raise ValueError(
            f"short_convolution: form='kernel' serves float32 and bfloat16 on the CPU, but x is "
            f"{x.dtype} on {x.device}; take form='auto' (a CUDA device is served where Triton is installed)"
        )


def served(x: Tensor) -> bool:
    """Whether the kernels serve x's device and dtype; autocast wants float32 rounded, which PyTorch does."""
    device = x.device.type
    plain = x.dtype == torch.float32 and not torch.is_autocast_enabled(device)
    return (device == "cpu" or on_card(x)) and (plain or x.dtype == torch.bfloat16)


def check_operands(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None) -> None:
    """Raise unless shapes, dtypes and devices fit together.

    Raises:
        TypeError: an operand is not of x's dtype, or x is no floating tensor.
        ValueError: a shape does not fit, or an operand lies on another device than x.
    """
    if not x.is_floating_point():
        raise TypeError(f"short_convolution: x must be real and floating, got {x.dtype}; convert it")
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(
            f"short_convolution: x must be (batch, L, channels), all at least 1, got {tuple(x.shape)}; "
            "a single sequence is x[None], channels come last"
        )
    batch, _, channels = x.shape
    if weight.ndim != 3 or weight.shape[:2] != (channels, 1) or weight.shape[2] < 1:
        raise ValueError(
            f"short_convolution: weight must be (channels, 1, K) = ({channels}, 1, K) with K >= 1 to fit x, "
            f"got {tuple(weight.shape)}"
        )
    expected = {"bias": (channels,), "window": (batch, channels, weight.shape[2] - 1)}
    for name, value in (("bias", bias), ("window", window)):
        if value is not None and tuple(value.shape) != expected[name]:
            raise ValueError(
                f"short_convolution: {name} must be {expected[name]} to fit x and weight, "
                f"got {tuple(value.shape)}"
            )
    for name, value in (("weight", weight), ("bias", bias), ("window", window)):
        if value is not None and value.device != x.device:
            raise ValueError(
                f"short_convolution: {name} is on {value.device} but x is on {x.device}; move one of them"
            )
        # Autocast brings operands to one type by itself.
        if value is not None and value.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(
                f"short_convolution: {name} is {value.dtype} but x is {x.dtype}; convert one of them"
            )
