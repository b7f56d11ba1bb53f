"""Linear attention with decay: ``S_t = diag(a_t) S_{t-1} + k_t v_t^T``, ``y_t = q_t^T S_t``.

``reference`` is the ground truth. ``recurrent`` is the fast form on a CPU (kernels in ``recurrent_kernels``,
sizes in ``recurrent_layout``). ``triton`` is that of CUDA devices (``triton_plan`` cuts the work into tiles,
which ``triton_tiles`` finds; ``triton_kernels`` has what both kinds of decays share, ``triton_scalar`` and
``triton_vector`` what they do not). ``ops`` makes both an operator of PyTorch. ``chunked`` serves any device
and type: ``within`` has the products inside a chunk, PyTorch's own. ``stock`` has the kernels of
flash-linear-attention, where they are installed and ``preference`` found them faster.
"""

import torch
from torch import Tensor

from compressm.scan.precision import at_least_float32
from compressm.scan.ssd.arguments import (
    FORMS,
    KERNELS,
    check_decays,
    check_form,
    check_operands,
    check_options,
    default_chunk_size,
    kernels_are_faster,
    kernels_of,
)
from compressm.scan.ssd.chunked import chunked_scan
from compressm.scan.ssd.ops import scan_on_kernels
from compressm.scan.ssd.preference import stock_is_faster
from compressm.scan.ssd.reference import reference_scan
from compressm.scan.ssd.stock import serves, stock_scan


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
    (Yang et al. 2023). Differentiable by every operand, through outputs and final state: once in the forms
    made of kernels, as often as wanted in the others.

    Args:
        q: queries, (batch, L, heads, K), float32 or float64.
        k: keys, (batch, L, heads, K).
        v: values, (batch, L, heads, V).
        log_decay: logarithms of decays, none positive: (batch, L, heads), or (batch, L, heads, K).
        state: the state before the first step, (batch, heads, K, V); zero if None.
        scale: factor of the outputs; attention has ``K ** -0.5``.
        chunk_size: steps that the form "chunked" computes together, a power of two; L need not be a multiple.
            By default 64 with one decay for each head and K of 64 or more, else 32: on a CPU at most 1.25
            times the time of the best of 16 to 128, for K and V from 16 to 128 (``compressm bench --grid``).
        form: "recurrent" is made of kernels for CPUs, whose time is linear in K, and pads V to a multiple of
            16; "triton" of kernels for CUDA devices, which pad K and V to 16 or a multiple of 32 in
            registers; "chunked" of PyTorch's matrix products; "reference" takes one step after the other in
            plain PyTorch. All are exact up to rounding, for decays of any strength. In float32 "auto" is
            "recurrent" on a CPU, but for one decay per head with K V above 2^14, and "triton" on a CUDA
            device where Triton is installed; else it is "chunked", as it is where ``chunk_size`` is given.
            Where flash-linear-attention is installed as well, and TF32 is allowed to products
            (``torch.backends.cuda.matmul.fp32_precision = "tf32"``), "auto" takes whichever was faster when
            first measured, except under ``torch.compile``.

    Returns:
        Outputs y, (batch, L, heads, V), and the state after the last step, (batch, heads, K, V). Under
        ``torch.autocast`` both are float32: the recurrence does not survive half precision.

    Raises:
        TypeError: an operand's dtype does not fit.
        ValueError: a shape or device does not fit, a logarithm is positive, ``form`` is unknown or does not
            serve the operands, or ``chunk_size`` is no power of two.
    """
    check_options(form, 1 if chunk_size is None else chunk_size)
    device = q.device.type if isinstance(q, Tensor) else "cpu"
    if torch.is_autocast_enabled(device):
        q, k, v, log_decay = (at_least_float32(x) for x in (q, k, v, log_decay))
        state = None if state is None else at_least_float32(state)
    check_operands(q, k, v, log_decay, state)
    check_form(form, chunk_size, q)
    compiling = torch.compiler.is_compiling()
    if not compiling:
        check_decays(log_decay)
    on_kernels = form == "auto" and chunk_size is None and kernels_of(q) is not None
    if form in KERNELS or (on_kernels and kernels_are_faster(q, v, log_decay)):
        operands = (q, k, v, log_decay, state)
        keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in operands)
        stock = form == "auto" and not compiling and serves(q, log_decay)
        if stock and stock_is_faster(q, v, log_decay, training=keep):
            with torch.autocast(device, enabled=False):
                return stock_scan(*operands, scale=scale)
        return scan_on_kernels(*operands, scale, keep)
    with torch.autocast(device, enabled=False):
        if form == "reference":
            return reference_scan(q, k, v, log_decay, state, scale=scale)
        size = chunk_size or default_chunk_size(k.shape[-1], per_channel=log_decay.ndim == 4)
        return chunked_scan(q, k, v, log_decay, state, scale=scale, chunk_size=size)


__all__ = ["FORMS", "default_chunk_size", "kernels_are_faster", "linear_attention_scan"]
