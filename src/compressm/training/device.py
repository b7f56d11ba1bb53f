"""Where a run computes, and in which precision."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

Precision = Literal["float32", "tf32", "bf16"]

TIMED = 10
"""On a GPU every so manieth step is timed: it has to be waited for, which would slow every step down."""


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one.

    Raises:
        ValueError: If the name is unknown, or there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}; choose auto, cpu, cuda or cuda:INDEX") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}; choose auto, cpu, cuda or cuda:INDEX")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {name!r}, and PyTorch finds {torch.cuda.device_count()} CUDA devices here: "
            "leave it out, or choose cpu"
        )
    return device


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def is_timed(device: torch.device, step: int, *, first: bool) -> bool:
    """Whether the step of this number is timed: every step on a CPU, one of :data:`TIMED` on a GPU.

    Args:
        device: Where it is computed.
        step: Its number.
        first: Whether no step since the last line of metrics was timed.
    """
    return device.type == "cpu" or first or step % TIMED == 0


@contextlib.contextmanager
def matrix_precision(precision: Precision) -> Iterator[None]:
    """Let float32 matrix products of CUDA devices run in TF32 inside, if ``precision`` says so.

    PyTorch has one switch for the whole process; it is put back afterwards. Otherwise it stays as it is.
    """
    if precision != "tf32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Automatic mixed precision with bfloat16, if ``precision`` says so; recurrences stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """States of the generators that a run on the device draws from, for a checkpoint."""
    states = {"rng": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda_rng"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put back what :func:`random_states` gave; a run that changes its device draws anew on a GPU."""
    torch.set_rng_state(states["rng"])
    if device.type == "cuda" and "cuda_rng" in states:
        torch.cuda.set_rng_state(states["cuda_rng"], device)
