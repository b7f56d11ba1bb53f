"""Checks of the operands, with messages that name the argument, its value and the remedy."""

import torch
from torch import Tensor

from compressm.scan.runtime.card import on_card

ROWS = ("u", "delta", "B", "C", "z")
"""What has a row for each step: kernels of a CUDA device read it in bfloat16, too."""

FORMS = ("auto", "reference", "scan")


def check_form(form: str, u: Tensor) -> None:
    """Raise unless ``form`` is one of :data:`FORMS` and serves u's device and dtype."""
    if form not in FORMS:
        raise ValueError(f"selective_scan: form={form!r} is not known; choose one of {', '.join(FORMS)}")
    if form == "scan" and not served(u):
        raise ValueError(
            f"selective_scan: form='scan' serves float32 on the CPU, but u is {u.dtype} on {u.device}; "
            "take form='auto' (a CUDA device is served in float32 and bfloat16 where Triton is installed)"
        )


def served(u: Tensor) -> bool:
    """Whether the kernels serve u's device and dtype."""
    if on_card(u):
        return u.dtype in (torch.float32, torch.bfloat16)
    return u.device.type == "cpu" and u.dtype == torch.float32


def check_operands(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, state: Tensor | None,
) -> None:  # fmt: skip
    """Raise unless shapes, dtypes and devices fit together.

    Raises:
        TypeError: an operand is no tensor, is neither float32 nor float64, or differs from u in dtype. On a
            CUDA device that is served what has a row for each step may be bfloat16 beside float32.
        ValueError: a shape does not fit, or an operand lies on another device than u.
    """
    optional = {"D": D, "z": z, "delta_bias": delta_bias, "state": state}
    named = {"u": u, "delta": delta, "A": A, "B": B, "C": C}
    named |= {name: value for name, value in optional.items() if value is not None}
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"selective_scan: {name} must be a tensor, got {type(value).__name__}")
    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(
            f"selective_scan: u must be (batch, L, d), all at least 1, got {tuple(u.shape)}; "
            "a single sequence is u[None], channels come last"
        )
    batch, L, d = u.shape
    if A.ndim != 2 or A.shape[0] != d or A.shape[1] < 1:
        raise ValueError(
            f"selective_scan: A must be (d, N) = ({d}, N) with N >= 1 to fit u, got {tuple(A.shape)}"
        )
    N = A.shape[1]
    shapes = {
        "delta": ("(batch, L, d)", (batch, L, d)),
        "B": ("(batch, L, N)", (batch, L, N)),
        "C": ("(batch, L, N)", (batch, L, N)),
        "D": ("(d,)", (d,)),
        "z": ("(batch, L, d)", (batch, L, d)),
        "delta_bias": ("(d,)", (d,)),
        "state": ("(batch, d, N)", (batch, d, N)),
    }
    for name, (symbols, shape) in shapes.items():
        if name in named and tuple(named[name].shape) != shape:
            raise ValueError(
                f"selective_scan: {name} must be {symbols} = {shape} to fit u and A, "
                f"got {tuple(named[name].shape)}"
            )
    rounded = {name for name in ROWS if name in named and named[name].dtype == torch.bfloat16}
    like = "A" if on_card(u) and "u" in rounded else "u"
    for name, value in named.items():
        if not (on_card(u) and A.dtype == torch.float32 and name in rounded):
            _check_kind(name, value, u, like, named[like])


def _check_kind(name: str, value: Tensor, u: Tensor, other: str, like: Tensor) -> None:
    if value.dtype not in (torch.float32, torch.float64):
        remedy = "A must be real" if value.is_complex() else "convert it, or use torch.autocast"
        raise TypeError(f"selective_scan: {name} must be float32 or float64, got {value.dtype}; {remedy}")
    if value.dtype != like.dtype:
        raise TypeError(
            f"selective_scan: {name} is {value.dtype} but {other} is {like.dtype}; convert one of them"
        )
    if value.device != u.device:
        raise ValueError(
            f"selective_scan: {name} is on {value.device} but u is on {u.device}; move one of them"
        )


def check_decays(A: Tensor) -> None:
    """Raise ValueError if an entry of A is positive: its state would grow without bound.

    Looked at on a CPU alone: elsewhere every call would wait for the device.
    """
    if A.device.type == "cpu" and bool((A > 0).any()):
        raise ValueError(
            f"selective_scan: A must not be positive, but its largest entry is {A.max().item():g}; "
            "pass A itself, A = -exp(A_log), not its logarithm"
        )
