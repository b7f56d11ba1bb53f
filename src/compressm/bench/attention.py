"""Linear attention with decay, Mamba-2's recurrence: ours, fla's and mamba-ssm's Triton kernels."""

import importlib

import torch
from torch import Tensor

from compressm.bench.cases import AttentionCase
from compressm.bench.contender import Arrays, Contender, as_arrays
from compressm.bench.selective import Operation, forward_backward, missing_on_gpu
from compressm.bench.timing import Step
from compressm.scan import linear_attention_scan

NAMES = ["q", "k", "v", "log_decay"]


def attention_operands(case: AttentionCase, device: str) -> list[Tensor]:
    """q, k, v and logarithms of decays around 0.95."""
    generator = torch.Generator().manual_seed(0)
    widths = (case.K, case.K, case.V)
    q, k, v = (torch.randn(case.batch, case.L, case.heads, width, generator=generator) for width in widths)
    shape = (case.batch, case.L, case.heads, *((case.K,) if case.per_channel else ()))
    log_decay = -0.1 * torch.rand(shape, generator=generator)
    return [operand.to(device).requires_grad_() for operand in (q, k, v, log_decay)]


class AttentionContender(Contender[AttentionCase]):
    """Any function of q, k, v and log_decay."""

    def operation(self) -> Operation:
        """The function."""
        raise NotImplementedError

    def step(self, case: AttentionCase) -> Step:
        """Outputs and gradients of all operands."""
        return forward_backward(self.operation(), attention_operands(case, self.settings.device))

    def outputs(self, case: AttentionCase) -> Arrays:
        """Outputs and gradients of all operands."""
        run = forward_backward(self.operation(), attention_operands(case, self.settings.device))
        return as_arrays(["y", *NAMES], run())


class OurAttention(AttentionContender):
    """:func:`compressm.scan.linear_attention_scan`."""

    name = "compressm"

    def operation(self) -> Operation:
        """The outputs of our scan."""
        return lambda *operands: linear_attention_scan(*operands)[0]


class FlaAttention(AttentionContender):
    """flash-linear-attention's gated kernels, a decay for each head or for each key channel."""

    name = "flash-linear-attention"

    def missing(self) -> str | None:
        """It needs a GPU."""
        return missing_on_gpu("fla", "flash-linear-attention", self.settings.device)

    def operation(self) -> Operation:
        """Its chunked form without scaling."""

        def run(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
            if log_decay.dim() == 4:
                function = importlib.import_module("fla.ops.gla").chunk_gla
            else:
                function = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla
            y: Tensor = function(q, k, v, log_decay, scale=1.0)[0]
            return y

        return run


class MambaSsmAttention(AttentionContender):
    """mamba-ssm's chunked scan, with C, B, x and a decay that is time step times rate."""

    name = "mamba-ssm"

    def missing(self) -> str | None:
        """It needs a GPU and its compiled extension."""
        return missing_on_gpu("mamba_ssm", "mamba-ssm", self.settings.device)

    def operation(self) -> Operation:
        """Time steps as the negated logarithms of the decays, and values divided by them."""
        module = "mamba_ssm.ops.triton.ssd_combined"
        function = importlib.import_module(module).mamba_chunk_scan_combined

        def run(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
            delta = -log_decay
            rates = -torch.ones(q.shape[2], device=q.device)
            y: Tensor = function(v / delta[..., None], delta, rates, k, q, chunk_size=64)
            return y

        return run
