"""Checks of the operands, with messages that name the argument, its value and the remedy."""

import torch
from torch import Tensor

FORMS = ("auto", "reference", "convolution", "scan")


def check_form(form: str) -> None:
    """Raise ValueError unless ``form`` is one of :data:`FORMS`."""
    if form not in FORMS:
        raise ValueError(f"lti_scan: form={form!r} is not known; choose one of {', '.join(FORMS)}")


def check_operands(
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None, D: Tensor | None = None,
    *, half: bool = False,
) -> None:  # fmt: skip
    """Raise unless shapes, dtypes and devices fit together; with ``half`` u may be bfloat16.

    Raises:
        TypeError: an operand is no tensor, is neither float32 nor float64, or differs from u in dtype.
        ValueError: a shape does not fit, or an operand lies on another device than u.
    """
    named = {"u": u, "lam": lam, "B": B, "C": C}
    named |= {name: value for name, value in (("state", state), ("D", D)) if value is not None}
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"lti_scan: {name} must be a tensor, got {type(value).__name__}")
    if u.ndim != 3 or u.shape[0] < 1 or u.shape[1] < 1:
        raise ValueError(
            f"lti_scan: u must be (batch, L, H) with batch >= 1 and L >= 1, got {tuple(u.shape)}; "
            "a single sequence is u[None]"
        )
    if lam.ndim != 2 or lam.shape[0] != 2:
        raise ValueError(
            f"lti_scan: lam must be (2, N), the real and imaginary parts of lambda, got {tuple(lam.shape)}"
        )
    batch, N, H = u.shape[0], lam.shape[1], u.shape[2]
    _check_shape("B", B, (2, N, H), "(2, N, H)")
    _check_shape("C", C, (2, C.shape[1] if C.ndim == 3 else -1, N), "(2, P, N)")
    if state is not None:
        _check_shape("state", state, (batch, 2, N), "(batch, 2, N)")
    if D is not None:
        _check_shape("D", D, (H,), "(H,)")
        if C.shape[1] != H:
            raise ValueError(
                f"lti_scan: D takes each of H = {H} inputs to its own output, but C makes P = {C.shape[1]} "
                "outputs; leave D out"
            )
    rounded = half and u.dtype == torch.bfloat16
    for name, value in named.items():
        if not (rounded and name == "u"):
            _check_kind(name, value, like=lam if rounded else u, u=u)


def _check_shape(name: str, value: Tensor, shape: tuple[int, ...], symbols: str) -> None:
    if tuple(value.shape) != shape:
        wanted = str(shape).replace("-1", "P")
        raise ValueError(
            f"lti_scan: {name} must be {symbols} = {wanted} to fit u and lam, got {tuple(value.shape)}"
        )


def _check_kind(name: str, value: Tensor, *, like: Tensor, u: Tensor) -> None:
    if value.dtype not in (torch.float32, torch.float64):
        remedy = "pass (real, imaginary) pairs" if value.is_complex() else "convert it, or use torch.autocast"
        raise TypeError(f"lti_scan: {name} must be float32 or float64, got {value.dtype}; {remedy}")
    if value.dtype != like.dtype:
        other = "u" if like is u else "lam"
        raise TypeError(f"lti_scan: {name} is {value.dtype} but {other} is {like.dtype}; convert one of them")
    if value.device != u.device:
        raise ValueError(f"lti_scan: {name} is on {value.device} but u is on {u.device}; move one of them")
