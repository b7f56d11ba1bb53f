"""Linear attention in plain PyTorch, one step after the other: the ground truth of the chunked form."""

import torch
from torch import Tensor


def reference_scan(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None, *, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Run the recurrence of :func:`compressm.scan.linear_attention_scan` step by step.

    Differentiable by autograd; every state stays in memory for the backward pass.
    """
    decay = log_decay.exp()
    decay = decay[..., None, None] if decay.ndim == 3 else decay[..., None]
    S = q.new_zeros(q.shape[0], q.shape[2], k.shape[3], v.shape[3]) if state is None else state
    outputs: list[Tensor] = []
    for t in range(q.shape[1]):
        S = decay[:, t] * S + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append(scale * (q[:, t, :, None] @ S).squeeze(-2))
    return torch.stack(outputs, dim=1), S
