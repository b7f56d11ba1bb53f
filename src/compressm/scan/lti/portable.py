"""The recurrence in plain PyTorch for devices without a compiled kernel.

Time is cut into about ``sqrt(L)`` pieces. All pieces advance together, step by step, from a zero state; then
the state is carried from piece to piece, and its decay ``lambda^{t+1} x`` added within each. That makes
``2 sqrt(L)`` small operations instead of L.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from compressm.scan.lti.impulse import Powers


def new_kept(u: Tensor, C: Tensor, keep: str, *, half: bool) -> Tensor:
    """Memory for what the backward pass starts from: all states, or nothing."""
    del half
    return u.new_empty((*u.shape[:2], 2, C.shape[2]) if keep == "states" else (0,))


def scan_forward(
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None,
    *, reverse: bool, keep: str, half: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Outputs, final state, and the states if ``keep`` is "states"; never in half precision."""
    del half
    x = states_of(u, lam, B, state, reverse=reverse)
    y = x[:, :, 0] @ C[0].mT - x[:, :, 1] @ C[1].mT
    return y, x[:, 0 if reverse else -1].clone(), x if keep == "states" else u.new_empty(0)


def scan_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    u: Tensor, lam: Tensor, B: Tensor, C: Tensor, state: Tensor | None, kept: Tensor,
    *, reverse: bool, keep: str, half: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, lambda, B, C and the initial state from those of outputs and final state."""
    del half
    batch, length, _ = u.shape
    x = kept if keep == "states" else states_of(u, lam, B, state, reverse=reverse)
    g = u.new_zeros(batch, length, 2, lam.shape[1])
    grad_C = torch.zeros_like(C)
    if grad_y is not None:
        g[:, :, 0], g[:, :, 1] = grad_y @ C[0], -(grad_y @ C[1])
        rows = grad_y.flatten(0, 1).mT
        grad_C[0], grad_C[1] = rows @ x[:, :, 0].flatten(0, 1), -(rows @ x[:, :, 1].flatten(0, 1))
    if grad_final is not None:
        g[:, 0 if reverse else -1] += grad_final
    w = advance(g, torch.stack((lam[0], -lam[1])), None, reverse=not reverse)
    rows, flat = u.flatten(0, 1), w.flatten(0, 1)
    grad_B = torch.stack((flat[:, 0].mT @ rows, flat[:, 1].mT @ rows))
    grad_u = w[:, :, 0] @ B[0] + w[:, :, 1] @ B[1]
    first = w[:, -1 if reverse else 0]
    grad_state = _times(torch.stack((lam[0], -lam[1])), first)
    initial = torch.zeros_like(first) if state is None else state
    before = torch.cat((x[:, 1:], initial[:, None]) if reverse else (initial[:, None], x[:, :-1]), dim=1)
    grad_lam = torch.stack(
        (
            (before * w).sum((0, 1, 2), dtype=torch.float64),
            (before[:, :, 0] * w[:, :, 1] - before[:, :, 1] * w[:, :, 0]).sum((0, 1), dtype=torch.float64),
        )
    )
    return grad_u, grad_lam.to(lam.dtype), grad_B, grad_C, grad_state


def advance(v: Tensor, lam: Tensor, state: Tensor | None, *, reverse: bool) -> Tensor:
    """States ``x_k = lambda x_{k-1} + v_k`` of inputs v (batch, L, 2, N), as a new tensor."""
    batch, length, _, N = v.shape
    steps = math.ceil(math.sqrt(length))
    count = -(-length // steps)
    pad = count * steps - length
    x = torch.nn.functional.pad(v, (0, 0, 0, 0, pad, 0) if reverse else (0, 0, 0, 0, 0, pad))
    x = x.reshape(batch, count, steps, 2, N)
    order, pieces = (range(steps), range(count))
    if reverse:
        order, pieces = (range(steps - 1, -1, -1), range(count - 1, -1, -1))
    for previous, t in pairwise(order):
        x[:, :, t] += _times(lam, x[:, :, previous])
    powers = Powers.of(lam, steps + 1)
    decay = torch.stack([_pair(powers.power(t + 1), lam.dtype) for t in range(steps)])
    carry = lam.new_zeros(batch, 2, N) if state is None else state
    carries: list[Tensor] = [carry] * count
    for piece in pieces:
        carries[piece] = carry
        carry = x[:, piece, order[-1]] + _times(decay[-1], carry)
    x += _times((decay.flip(0) if reverse else decay)[None, None], torch.stack(carries, dim=1)[:, :, None])
    x = x.reshape(batch, count * steps, 2, N)
    return (x[:, pad:] if reverse else x[:, :length]).contiguous()


def states_of(u: Tensor, lam: Tensor, B: Tensor, state: Tensor | None, *, reverse: bool) -> Tensor:
    """States (batch, L, 2, N) of inputs u (batch, L, H)."""
    v = (u @ B.flatten(0, 1).mT).view(*u.shape[:2], *B.shape[:2])
    return advance(v, lam, state, reverse=reverse)


def _times(lam: Tensor, x: Tensor) -> Tensor:
    """The product of complex numbers, as pairs (..., 2, N)."""
    a, b, c, d = lam[..., 0, :], lam[..., 1, :], x[..., 0, :], x[..., 1, :]
    return torch.stack((a * c - b * d, a * d + b * c), dim=-2)


def _pair(value: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.stack((value.real, value.imag)).to(dtype)
