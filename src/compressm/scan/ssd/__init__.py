"""Linear attention with decay: ``S_t = diag(a_t) S_{t-1} + k_t v_t^T``, ``y_t = q_t^T S_t``.

``reference`` is the ground truth. ``chunked`` is the fast form, on any device: ``within`` has the products
inside a chunk. It consists of matrix products, which on a CUDA device are PyTorch's own; no kernel is
compiled for it.
"""

import torch
from torch import Tensor

from compressm.scan.precision import at_least_float32
from compressm.scan.ssd.arguments import (
    FORMS,
    check_decays,
    check_operands,
    check_options,
    default_chunk_size,
)
from compressm.scan.ssd.chunked import chunked_scan
from compressm.scan.ssd.reference import reference_scan


def linear_attention_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor | None = None,
    *,
    scale: float = 1.0,
    chunk_size: int | None = None,
    form: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run ``S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T``, ``y_t = scale q_t^T S_t`` for each head.

    The recurrence of Mamba-2 (Dao and Gu 2024, state-space duality: q is C, k is B, v is delta x, log_decay
    is delta A), of RetNet (Sun et al. 2023), and with a decay for each key channel of gated linear attention
    (Yang et al. 2023). Differentiable by every operand, through outputs and final state.

    Args:
        q: queries, (batch, L, heads, K), float32 or float64.
        k: keys, (batch, L, heads, K).
        v: values, (batch, L, heads, V).
        log_decay: logarithms of decays, none positive: (batch, L, heads), or (batch, L, heads, K).
        state: the state before the first step, (batch, heads, K, V); zero if None.
        scale: factor of the outputs; attention has ``K ** -0.5``.
        chunk_size: steps that are computed together, a power of two; L need not be a multiple. By default 64
            with one decay for each head and K of 64 or more, else 32: on a CPU at most 1.15 times the time of
            the best of 16 to 128, for K and V from 16 to 128 (``compressm bench --grid``).
        form: "chunked" is made of matrix products, "reference" takes one step after the other in plain
            PyTorch; "auto" is "chunked". Both are exact up to rounding, for decays of any strength.

    Returns:
        Outputs y, (batch, L, heads, V), and the state after the last step, (batch, heads, K, V). Under
        ``torch.autocast`` both are float32: the recurrence does not survive half precision.

    Raises:
        TypeError: an operand's dtype does not fit.
        ValueError: a shape or device does not fit, a logarithm is positive, ``form`` is unknown, or
            ``chunk_size`` is no power of two.
    """
    if chunk_size is None:
        chunk_size = default_chunk_size(k.shape[-1], per_channel=log_decay.ndim == 4)
    check_options(form, chunk_size)
    device = q.device.type if isinstance(q, Tensor) else "cpu"
    if torch.is_autocast_enabled(device):
        q, k, v, log_decay = (at_least_float32(x) for x in (q, k, v, log_decay))
        state = None if state is None else at_least_float32(state)
    check_operands(q, k, v, log_decay, state)
    if not torch.compiler.is_compiling():
        check_decays(log_decay)
    with torch.autocast(device, enabled=False):
        if form == "reference":
            return reference_scan(q, k, v, log_decay, state, scale=scale)
        return chunked_scan(q, k, v, log_decay, state, scale=scale, chunk_size=chunk_size)


__all__ = ["FORMS", "default_chunk_size", "linear_attention_scan"]
