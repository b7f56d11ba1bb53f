"""The recurrence in plain PyTorch, one step after the other: the ground truth of every other form."""

import torch
from torch import Tensor


def reference_scan(
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Run ``x_k = lambda x_{k-1} + B u_k``, ``y_k = Re(C x_k)`` step by step, differentiable by autograd.

    Shapes as in :func:`compressm.scan.lti_scan`. Every state stays in memory for the backward pass.
    """
    lam_re, lam_im = lam
    v_re, v_im = u @ B[0].mT, u @ B[1].mT
    if state is None:
        x_re = x_im = u.new_zeros(u.shape[0], lam.shape[1])
    else:
        x_re, x_im = state.unbind(1)
    outputs: list[Tensor] = []
    length = u.shape[1]
    for k in reversed(range(length)) if reverse else range(length):
        x_re, x_im = (
            lam_re * x_re - lam_im * x_im + v_re[:, k],
            lam_re * x_im + lam_im * x_re + v_im[:, k],
        )
        outputs.append(x_re @ C[0].mT - x_im @ C[1].mT)
    if reverse:
        outputs.reverse()
    return torch.stack(outputs, dim=1), torch.stack((x_re, x_im), dim=1)
