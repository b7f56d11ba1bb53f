"""Which form of the recurrence is fastest for a shape: a formula per form, with measured constants.

A form's time is a sum of counts of work, each times its seconds: the counts follow from what the form
computes, the seconds from measurements. Shipped seconds are those of one x86 core with AVX-512;
:func:`compressm.scan.calibrate` measures those of this machine.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from compressm.scan.lti import constants, few_channels
from compressm.scan.runtime.widths import HALF, OCTET


class Shape(NamedTuple):
    """The sizes that a form's cost depends on."""

    batch: int
    L: int
    H: int
    P: int
    N: int

    @classmethod
    def of(cls, u: Tensor, C: Tensor) -> "Shape":
        """The sizes of inputs (batch, L, H) and output matrix (2, P, N)."""
        return cls(u.shape[0], u.shape[1], u.shape[2], C.shape[1], C.shape[2])


def choose_form(
    shape: Shape, *, training: bool, threads: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> str:
    """The form, "scan" or "convolution", that should be fastest.

    What a convolution takes depends on what else was in the caches: it must promise a gain of a tenth.
    """
    scan = seconds(scan_kernels(shape, device, dtype), shape, training=training, threads=threads)
    convolution = seconds("convolution", shape, training=training, threads=threads)
    # Numbers in the code: compilers for any length take a module's float for one more that may change.
    return "scan" if 9 * scan <= 10 * convolution else "convolution"


def scan_kernels(shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """What computes the form "scan": "few_channels", kernels of their own, or "scan"."""
    few = device == "cpu" and few_channels.suits(shape.H, shape.P, dtype)
    return "few_channels" if few else "scan"


def seconds(kernels: str, shape: Shape, *, training: bool, threads: int) -> float:
    """Expected seconds, forward only or (``training``) forward and backward.

    ``kernels`` are those of a form: "convolution", or what :func:`scan_kernels` says.
    """
    each = constants.current()[f"{kernels}/{'training' if training else 'inference'}"]
    work = counts(kernels, shape, training)
    fixed, *shared = (count * cost for count, cost in zip(work, each, strict=True))
    total: float = fixed + sum(shared) / threads
    return total


def counts(kernels: str, shape: Shape, training: bool) -> tuple[float, ...]:
    """Counts of work: first that which more threads do not speed up, then the rest."""
    if kernels == "convolution":
        return _convolution_counts(shape)
    return (_few_channels_counts if kernels == "few_channels" else _scan_counts)(shape, training)


def what_to_keep(shape: Shape) -> str:
    """What the form "scan" keeps from the forward for the backward pass: "states" or "checkpoints".

    Where channels are many, computing states anew costs a large matrix product, and the states are small
    beside what the other parts of a layer keep for a step; where channels are few, it is the other way round.
    """
    widest = max(shape.H, shape.P)
    return "states" if 2 * widest >= shape.N else "checkpoints"


def _scan_counts(shape: Shape, training: bool) -> tuple[float, ...]:
    batch, L, H, P, N = shape
    rows = batch * L
    products = H + P
    if training:
        products = 3 * (H + P) + (H if what_to_keep(shape) == "checkpoints" else 0)
    # Products of a few columns cost as if they had more: their operands must be read all the same.
    return 1.0, rows * N * products, rows * N, rows * (H + P), rows, N * (H + P)


def _few_channels_counts(shape: Shape, training: bool) -> tuple[float, ...]:
    batch, L, H, P, N = shape
    # States come in blocks of 16, channels in groups of four or eight: what is filled up costs as much.
    rows, blocks = batch * L, -(-N // HALF)
    products = H + OCTET * -(-P // OCTET)
    if training:
        products += H + P + 4 * (-(-H // 4) + -(-P // 4)) + OCTET * -(-H // OCTET)
    # Every column of states reads the inputs, and writes outputs and gradients of its own.
    passes = rows * few_channels.columns_of(batch, N)
    return 1.0, rows * blocks * products, rows * blocks, passes * (H + P), passes, blocks * (H + P)


def _convolution_counts(shape: Shape) -> tuple[float, ...]:
    batch, L, H, P, N = shape
    # The eighth root grows as the logarithm does over all lengths in use, and compilers can trace it.
    digits = math.sqrt(math.sqrt(math.sqrt(L)))
    return (
        1.0,
        batch * L * (H + P) * digits,  # transforms of signals
        L * H * P * digits,  # transforms of the kernel
        batch * L * H * P,  # products of spectra
        L * H * P * N,  # the kernel
        batch * L * H * N,  # the final state
        math.sqrt(L) * N * (H + P + batch + 6),  # powers of lambda and their factors
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def threads_of(device: str) -> int:
    """Threads that share the work: PyTorch's on a CPU; a device's own are in its constants."""
    return torch.get_num_threads() if device == "cpu" else 1
