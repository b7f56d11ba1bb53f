"""The selective recurrence of one Mamba layer: ours, mambapy's parallel scan, mamba-ssm's CUDA kernel."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compressm.bench.cases import SelectiveCase
from compressm.bench.contender import Arrays, Contender, as_arrays
from compressm.bench.timing import Step
from compressm.scan import selective_scan

NAMES = ["u", "delta", "A", "B", "C", "D"]
Operation = Callable[..., Tensor]


def selective_operands(case: SelectiveCase, device: str) -> list[Tensor]:
    """u, delta, A, B, C and D as in a Mamba layer at its start; time steps are in [0.001, 0.1]."""
    batch, L, d, N = case.batch, case.L, case.d, case.N
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    delta = 0.001 * 100 ** torch.rand(batch, L, d, generator=generator)
    A = -torch.arange(1.0, N + 1).repeat(d, 1)
    operands = [normal(batch, L, d), delta, A, normal(batch, L, N), normal(batch, L, N), normal(d)]
    return [operand.to(device).requires_grad_() for operand in operands]


def forward_backward(operation: Operation, operands: list[Tensor]) -> Callable[[], list[Tensor]]:
    """Outputs, and gradients of all operands for a weight on the outputs that is always the same."""
    weights: list[Tensor] = []

    def run() -> list[Tensor]:
        y = operation(*operands)
        if not weights:
            generator = torch.Generator().manual_seed(2)
            weights.append(torch.randn(y.shape, generator=generator).to(y.device))
        return [y, *torch.autograd.grad(y, operands, weights[0])]

    return run


class SelectiveContender(Contender[SelectiveCase]):
    """Any function of u, delta, A, B, C and D."""

    def operation(self) -> Operation:
        """The function."""
        raise NotImplementedError

    def step(self, case: SelectiveCase) -> Step:
        """Outputs and gradients of all operands."""
        return forward_backward(self.operation(), selective_operands(case, self.settings.device))

    def outputs(self, case: SelectiveCase) -> Arrays:
        """Outputs and gradients of all operands."""
        run = forward_backward(self.operation(), selective_operands(case, self.settings.device))
        return as_arrays(["y", *NAMES], run())


class OurSelective(SelectiveContender):
    """:func:`compressm.scan.selective_scan`."""

    name = "compressm"

    def operation(self) -> Operation:
        """The outputs of our scan."""
        return lambda *operands: selective_scan(*operands)[0]


class MambapySelective(SelectiveContender):
    """mambapy's parallel scan, which wants decays and inputs of every state at every step."""

    name = "mambapy"

    def missing(self) -> str | None:
        """Mambapy may not be installed."""
        return None if importlib.util.find_spec("mambapy") else "not installed: pip install mambapy"

    def operation(self) -> Operation:
        """Decays and inputs, mambapy's scan, and the sum over states."""
        pscan = importlib.import_module("mambapy.pscan").pscan

        def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
            decays = torch.exp(delta[..., None] * A)
            states: Tensor = pscan(decays, (delta * u)[..., None] * B[:, :, None])
            return (states @ C[..., None]).squeeze(-1) + D * u

        return run


class MambaSsmSelective(SelectiveContender):
    """mamba-ssm's kernel, which wants channels before time."""

    name = "mamba-ssm"

    def missing(self) -> str | None:
        """It needs a GPU and its compiled extension."""
        return missing_on_gpu("mamba_ssm", "mamba-ssm", self.settings.device)

    def operation(self) -> Operation:
        """The fused function on transposed operands."""
        function = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn

        def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
            order: Any = (x.mT.contiguous() for x in (u, delta, B, C))
            u_t, delta_t, B_t, C_t = order
            y: Tensor = function(u_t, delta_t, A, B_t, C_t, D)
            return y.mT

        return run


def missing_on_gpu(module: str, package: str, device: str) -> str | None:
    """Why a package with CUDA kernels cannot take part, None if it can."""
    if device != "cuda":
        return "runs on CUDA devices only: --device cuda"
    return None if importlib.util.find_spec(module) else f"not installed: pip install {package}"
