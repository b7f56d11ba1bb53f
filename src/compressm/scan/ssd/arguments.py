"""Checks of the operands, with messages that name the argument, its value and the remedy."""

import torch
from torch import Tensor

from compressm.scan.runtime.card import on_card

_NAME = "linear_attention_scan"
FORMS = ("auto", "chunked", "recurrent", "reference", "triton")

KERNELS = {"recurrent": "the CPU", "triton": "a CUDA device where Triton is installed"}
"""Forms that are compiled kernels, and where they run."""

MOST_STATES = 1 << 14
"""``K V`` up to which, with one decay for each head, the kernels of CPUs are quicker than products."""


def default_chunk_size(keys: int, *, per_channel: bool) -> int:
    """Steps to compute together: products are larger, and fewer, the less there is to do for each decay."""
    return 32 if per_channel or keys < 64 else 64


def kernels_of(q: Tensor) -> str | None:
    """The form whose compiled kernels serve q's device and dtype, if there is one."""
    if q.dtype != torch.float32:
        return None
    if q.device.type == "cpu":
        return "recurrent"
    return "triton" if on_card(q) else None


def kernels_are_faster(q: Tensor, v: Tensor, log_decay: Tensor) -> bool:
    """Whether to prefer :func:`kernels_of` to the form "chunked" (``compressm bench --grid``)."""
    per_channel = log_decay.ndim == 4
    return q.device.type != "cpu" or per_channel or q.shape[3] * v.shape[3] <= MOST_STATES


def check_form(form: str, chunk_size: int | None, q: Tensor) -> None:
    """Raise ValueError unless a form of kernels serves q and is left to cut its own chunks."""
    if form not in KERNELS:
        return
    if kernels_of(q) != form:
        raise ValueError(
            f"linear_attention_scan: form={form!r} serves float32 on {KERNELS[form]}, "
            f"but q is {q.dtype} on {q.device}; take form='auto'"
        )
    if chunk_size is not None:
        raise ValueError(
            f"linear_attention_scan: chunk_size={chunk_size} is for form='chunked'; form={form!r} has chunks "
            "of its own, so leave chunk_size out"
        )


def check_options(form: str, chunk_size: int) -> None:
    """Raise ValueError unless ``form`` is one of :data:`FORMS` and ``chunk_size`` is a power of two."""
    if form not in FORMS:
        raise ValueError(
            f"linear_attention_scan: form={form!r} is not known; choose one of {', '.join(FORMS)}"
        )
    if chunk_size < 1 or chunk_size & (chunk_size - 1):
        raise ValueError(f"linear_attention_scan: chunk_size={chunk_size} is not a power of two, such as 32")


def check_operands(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, *, caller: str = _NAME
) -> None:
    """Raise unless shapes, dtypes and devices fit together.

    Raises:
        TypeError: an operand is no tensor, is neither float32 nor float64, or differs from q in dtype.
        ValueError: a shape does not fit, or an operand lies on another device than q.
    """
    named = {"q": q, "k": k, "v": v, "log_decay": log_decay} | ({} if state is None else {"state": state})
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{caller}: {name} must be a tensor, got {type(value).__name__}")
    if q.ndim != 4 or 0 in q.shape:
        raise ValueError(f"{caller}: q must be (batch, L, heads, K), all at least 1, got {tuple(q.shape)}")
    batch, L, heads, K = q.shape
    if v.ndim != 4 or v.shape[:3] != q.shape[:3] or v.shape[3] < 1:
        raise ValueError(
            f"{caller}: v must be (batch, L, heads, V) = ({batch}, {L}, {heads}, V) to fit q, "
            f"got {tuple(v.shape)}"
        )
    check_shape(caller, "k", k, "(batch, L, heads, K)", (batch, L, heads, K))
    if log_decay.ndim == 3:
        check_shape(caller, "log_decay", log_decay, "(batch, L, heads)", (batch, L, heads))
    else:
        check_shape(
            caller, "log_decay", log_decay, "(batch, L, heads) or (batch, L, heads, K)", (batch, L, heads, K)
        )
    if state is not None:
        check_shape(caller, "state", state, "(batch, heads, K, V)", (batch, heads, K, v.shape[3]))
    for name, value in named.items():
        check_kind(caller, name, value, q)


def check_decays(log_decay: Tensor, *, caller: str = _NAME) -> None:
    """Raise ValueError if a logarithm of a decay is positive: its state would grow without bound.

    Looked at on a CPU alone: elsewhere every call would wait for the device.
    """
    # The largest is found in one pass; where it is no number, a positive one may stand beside it.
    if log_decay.device.type != "cpu" or log_decay.detach().amax().item() <= 0:
        return
    if bool((log_decay > 0).any()):
        largest = log_decay.detach().nan_to_num(-torch.inf, torch.inf, -torch.inf).amax().item()
        raise ValueError(
            f"{caller}: log_decay must not be positive, but its largest entry is {largest:g}; "
            "pass the logarithm of a decay between 0 and 1"
        )


def check_shape(caller: str, name: str, value: Tensor, symbols: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an operand has this shape, which ``symbols`` spell out."""
    if tuple(value.shape) != shape:
        raise ValueError(
            f"{caller}: {name} must be {symbols} = {shape} to fit q and v, got {tuple(value.shape)}"
        )


def check_kind(caller: str, name: str, value: Tensor, q: Tensor) -> None:
    """Raise TypeError or ValueError unless an operand has a dtype to compute in, and those of q."""
    place = f"{caller}: {name}"
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{place} must be float32 or float64, got {value.dtype}; convert it, or use torch.autocast"
        )
    if value.dtype != q.dtype:
        raise TypeError(f"{place} is {value.dtype} but q is {q.dtype}; convert one of them")
    if value.device != q.device:
        raise ValueError(f"{place} is on {value.device} but q is on {q.device}; move one of them")
