"""Checks that all layers share, with messages that say what to do."""

import torch
from torch import Tensor


def check_sizes(layer: str, **sizes: int) -> None:
    """Refuse a size below 1.

    Raises:
        ValueError: Naming the layer, the argument and its value.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{layer}: {name} is {size}; it must be at least 1")


def check_ring(layer: str, r_min: float, r_max: float) -> None:
    """Refuse a ring of eigenvalues that is empty or reaches the unit circle.

    Raises:
        ValueError: Naming the layer and the ring.
    """
    if not 0 <= r_min < r_max < 1:
        raise ValueError(f"{layer}: the ring [{r_min}, {r_max}] must satisfy 0 <= r_min < r_max < 1")


def check_sequence(layer: str, u: Tensor, channels: int) -> None:
    """Refuse anything but ``(batch, L, channels)`` with at least one step.

    Raises:
        ValueError: Naming the layer and the shape.
    """
    if u.dim() != 3 or u.shape[2] != channels or u.shape[1] < 1:
        raise ValueError(
            f"{layer}: inputs have shape {tuple(u.shape)}; expected (batch, L, {channels}) with L >= 1"
        )


def check_input(layer: str, u_k: Tensor, channels: int) -> None:
    """Refuse anything but one input for each sequence, ``(batch, channels)``.

    Raises:
        ValueError: Naming the layer and the shape.
    """
    if u_k.dim() != 2 or u_k.shape[1] != channels:
        raise ValueError(f"{layer}: input has shape {tuple(u_k.shape)}; expected (batch, {channels})")


def check_state(layer: str, state: Tensor | None, expected: tuple[int, ...]) -> None:
    """Refuse a state that belongs to another size of the layer.

    Raises:
        ValueError: Naming the layer and the shapes.
    """
    if state is not None and state.shape != expected:
        raise ValueError(
            f"{layer}: the state has shape {tuple(state.shape)}; expected {expected}. "
            "A state from before a cut does not fit afterwards: start the sequence anew"
        )


def check_dtype(layer: str, u: Tensor, dtype: torch.dtype) -> None:
    """Refuse inputs of another type than the layer's, other than half precision under autocast.

    Raises:
        TypeError: Naming the layer and both types.
    """
    half = u.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled(u.device.type)
    if u.dtype != dtype and not half:
        raise TypeError(
            f"{layer}: inputs are {u.dtype} and parameters {dtype}; convert one of them, with u.to({dtype}) "
            f"or layer.to({u.dtype})"
        )
