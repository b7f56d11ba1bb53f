"""Measure the cost model's constants on this machine."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from compressm.scan.lti import constants
from compressm.scan.lti.cost import Shape, counts, scan_kernels

SHAPES = tuple(
    Shape(batch, L, H, P, N)
    for batch, L in ((1, 256), (1, 4096), (8, 512), (50, 784))
    for H, P in ((1, 1), (4, 4), (8, 8), (16, 16), (32, 32), (48, 48), (64, 16), (64, 64), (96, 96))
    for N in (8, 64, 256)
    if batch * L * (H + P) * N <= 2e8 and L * H * P <= 2**20
)
"""Shapes on both sides of where one form overtakes the other, each measured in milliseconds."""

OTHERS = 1 << 23
"""Numbers that are touched between measurements, in place of a model's other layers: 32 MiB."""


def calibrate(*, path: Path | None = None, shapes: Sequence[Shape] = SHAPES) -> constants.Constants:
    """Measure this machine, use the result from now on and keep it for later processes. About a minute.

    Args:
        path: file for the constants; by default in the cache folder (``COMPRESSM_CACHE_DIR``).
        shapes: what to measure.

    Returns:
        Seconds per count of work for the kernels of each form, as one thread would take them.
    """
    found: constants.Constants = {}
    for kernels in ("scan", "few_channels", "convolution"):
        form = "convolution" if kernels == "convolution" else "scan"
        theirs = [shape for shape in shapes if kernels in ("convolution", scan_kernels(shape))]
        for training in (True, False):
            measured = np.array([measure(form, shape, training=training) for shape in theirs])
            name = f"{kernels}/{'training' if training else 'inference'}"
            found[name] = fit(kernels, theirs, measured, training)
    constants.use(found, path or constants.file())
    return found


def measure(form: str, shape: Shape, *, training: bool, repeats: int = 5) -> float:
    """Seconds of a form at a shape, float32: the median of several runs after a first one.

    As layers use it: training takes no notice of the final state, streaming does. And between others: what
    fits the caches does not find its operands there, which a form that needs much memory feels most.
    """
    from compressm.scan.lti import lti_scan

    operands = example(shape, requires_grad=training)
    weight, others = torch.ones(shape.batch, shape.L, shape.P), torch.zeros(OTHERS)
    seconds = []
    for _ in range(repeats + 1):
        others.add_(1)
        start = time.perf_counter()
        y, _ = lti_scan(*operands, form=form, final=not training)
        if training:
            torch.autograd.grad(y, operands, weight)
        seconds.append(time.perf_counter() - start)
        del y
    return statistics.median(seconds[1:])


def example(shape: Shape, *, requires_grad: bool = False) -> list[torch.Tensor]:
    """Random u, lambda (on the ring of 0.9 to 0.999), B and C of a shape, float32, always the same."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    radius = 0.9 + 0.099 * torch.rand(shape.N, generator=generator)
    lam = torch.view_as_real(torch.polar(radius, 6.28 * torch.rand(shape.N, generator=generator))).T
    operands = [
        normal(shape.batch, shape.L, shape.H), lam.contiguous(), normal(2, shape.N, shape.H),
        normal(2, shape.P, shape.N),
    ]  # fmt: skip
    return [operand.requires_grad_(requires_grad) for operand in operands]


def fit(kernels: str, shapes: Sequence[Shape], measured: np.ndarray, training: bool) -> list[float]:
    """Non-negative seconds per count with the smallest relative squared error over the shapes."""
    threads = torch.get_num_threads()
    work = np.array([counts(kernels, shape, training) for shape in shapes])
    work[:, 1:] /= threads
    relative = work / measured[:, None]
    scale = relative.max(axis=0)
    return [float(value) for value in _non_negative_least_squares(relative / scale) / scale]


def _non_negative_least_squares(matrix: np.ndarray, sweeps: int = 20_000) -> np.ndarray:
    """The x >= 0 with the smallest ``|matrix x - 1|``, by coordinate descent."""
    gram, right = matrix.T @ matrix, matrix.sum(axis=0)
    x = np.zeros(matrix.shape[1])
    for _ in range(sweeps):
        for i in range(x.size):
            x[i] = max(0.0, x[i] + (right[i] - gram[i] @ x) / gram[i, i])
    return x
