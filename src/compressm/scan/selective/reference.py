"""The selective recurrence in plain PyTorch, one step after the other: the ground truth of the kernels."""

import torch
from torch import Tensor


def reference_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    state: Tensor | None = None,
    *,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence of :func:`compressm.scan.selective_scan` step by step, differentiable by autograd.

    Every state stays in memory for the backward pass.
    """
    if delta_bias is not None:
        delta = delta + delta_bias
    if delta_softplus:
        delta = torch.nn.functional.softplus(delta)
    h = u.new_zeros(u.shape[0], *A.shape) if state is None else state
    v = delta * u
    outputs: list[Tensor] = []
    for k in range(u.shape[1]):
        h = torch.exp(delta[:, k, :, None] * A) * h + v[:, k, :, None] * B[:, k, None]
        outputs.append((h @ C[:, k, :, None]).squeeze(-1))
    y = torch.stack(outputs, dim=1)
    if D is not None:
        y = y + D * u
    return (y if z is None else y * torch.nn.functional.silu(z)), h
