"""One step of the matrix-state recurrences, in operations that any exporter knows."""

from collections.abc import Callable

import torch
from torch import Tensor

from compressm.scan.delta_rule.unit import unit_rows
from compressm.scan.precision import at_least_float32

Recurrence = Callable[..., tuple[Tensor, Tensor]]
"""A recurrence of keys, values and a matrix state: over a sequence, or over one step of it."""


def linear_attention_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, *, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """What :func:`compressm.scan.linear_attention_scan` computes, for sequences of one step.

    Args:
        q: Queries ``(batch, 1, heads, K)``.
        k: Keys, of the same shape.
        v: Values ``(batch, 1, heads, V)``.
        log_decay: Logarithms of decays, ``(batch, 1, heads)`` or ``(batch, 1, heads, K)``.
        state: State before, ``(batch, heads, K, V)``; zero if None.
        scale: Factor of the outputs.

    Returns:
        Outputs ``(batch, 1, heads, V)`` and the state after, both at least float32.
    """
    q, k, v, log_decay = (at_least_float32(x)[:, 0] for x in (q, k, v, log_decay))
    S = k[..., None] * v[:, :, None]
    if state is not None:
        decay = torch.exp(log_decay)
        S = S + (decay[..., None, None] if decay.dim() == 2 else decay[..., None]) * state
    return scale * (q[..., None] * S).sum(dim=2)[:, None], S


def delta_rule_step(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None, *,
    scale: float = 1.0, unit: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What :func:`compressm.scan.delta_rule.delta_rule_scan` computes, for sequences of one step.

    Shapes are as in :func:`linear_attention_step`; ``beta`` and ``log_decay`` are ``(batch, 1, heads)``.
    """
    q, k, v, beta, log_decay = (at_least_float32(x)[:, 0] for x in (q, k, v, beta, log_decay))
    if unit:
        q, k = unit_rows(q), unit_rows(k)
    if state is None:
        S = k[..., None] * (beta[..., None] * v)[:, :, None]
    else:
        decayed = torch.exp(log_decay)[..., None, None] * state
        surprise = v - (k[..., None] * decayed).sum(dim=2)
        S = decayed + k[..., None] * (beta[..., None] * surprise)[:, :, None]
    return scale * (q[..., None] * S).sum(dim=2)[:, None], S
