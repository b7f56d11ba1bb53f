"""The delta rule with decay: a memory that writes only what it does not know yet.

``chunked`` serves any device and type with PyTorch's products, and is what compilers and tracers see.
``recurrent`` is the fast form on a CPU in float32 (kernels in ``forward_kernel`` and ``backward_kernel``;
``lengths`` has vectors of length one for both, ``unit`` for all others). Matrix states lie in memory as those
of linear attention do, whose room ``ssd`` has what both share.
"""

import torch
from torch import Tensor

from compressm.scan.delta_rule.chunked import chunked_scan
from compressm.scan.delta_rule.recurrent import recurrent_scan
from compressm.scan.precision import at_least_float32
from compressm.scan.runtime.tracing import observed, plain
from compressm.scan.ssd.arguments import check_decays, check_kind, check_operands, check_shape

FORMS = ("auto", "chunked", "recurrent")
CHUNK = 64


def delta_rule_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    state: Tensor | None = None,
    *,
    scale: float = 1.0,
    unit: bool = False,
    chunk_size: int | None = None,
    form: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run ``S_t = a_t S_{t-1} + k_t u_t^T`` with ``u_t = beta_t (v_t - (a_t S_{t-1})^T k_t)``.

    Outputs are ``y_t = scale S_t^T q_t``, decays ``a_t = exp(log_decay_t)`` (Yang et al. 2024, arXiv
    2406.06484; with decay Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464). Differentiable by every
    operand, through outputs and final state: once in the form made of kernels, else as often as wanted.

    Args:
        q: Queries ``(batch, L, heads, K)``.
        k: Keys, of the same shape; of length one, or the rule may not be stable.
        v: Values ``(batch, L, heads, V)``.
        beta: Writing strengths ``(batch, L, heads)``.
        log_decay: Logarithms of decays, none positive, ``(batch, L, heads)``.
        state: State before the first step ``(batch, heads, K, V)``; zero if None.
        scale: Factor of the outputs.
        unit: Whether to scale queries and keys to length one first; short ones are not blown up.
        chunk_size: Steps that the form "chunked" computes together, 64 by default.
        form: "recurrent" is made of kernels for CPUs, in float32, whose time is linear in K, and pads V to a
            multiple of 16; "chunked" of PyTorch's products and triangular solves. "auto" is "recurrent" where
            it serves and nobody watches operators (``torch.compile``, export, transforms of functions), and
            where ``chunk_size`` is not given.

    Returns:
        Outputs ``(batch, L, heads, V)`` and the state after the last step, both at least float32.

    Raises:
        TypeError: An operand's dtype does not fit.
        ValueError: A shape or device does not fit, a logarithm is positive, ``chunk_size`` is below 1, or
            ``form`` is unknown or does not serve the operands.
    """
    for name, value in (("q", q), ("k", k), ("v", v), ("beta", beta), ("log_decay", log_decay)):
        if not isinstance(value, Tensor):
            raise TypeError(f"delta_rule_scan: {name} must be a tensor, got {type(value).__name__}")
    q, k, v, beta, log_decay = (at_least_float32(x) for x in (q, k, v, beta, log_decay))
    check_operands(q, k, v, log_decay, state, caller="delta_rule_scan")
    for name, value in (("beta", beta), ("log_decay", log_decay)):
        check_shape("delta_rule_scan", name, value, "(batch, L, heads)", tuple(q.shape[:3]))
    check_kind("delta_rule_scan", "beta", beta, q)
    served = plain(q, k, v, beta, log_decay, state) and not observed()
    _check_options(form, chunk_size, served=served)
    if not torch.compiler.is_compiling():
        check_decays(log_decay, caller="delta_rule_scan")
    if form == "recurrent" or (form == "auto" and chunk_size is None and served):
        return recurrent_scan(q, k, v, beta, log_decay, state, scale=scale, unit=unit)
    return chunked_scan(
        q, k, v, beta, log_decay, state, scale=scale, unit=unit, chunk_size=chunk_size or CHUNK
    )


def _check_options(form: str, chunk_size: int | None, *, served: bool) -> None:
    if form not in FORMS:
        raise ValueError(f"delta_rule_scan: form={form!r} is not known; choose one of {', '.join(FORMS)}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"delta_rule_scan: chunk_size={chunk_size} is below 1; {CHUNK} is a good one")
    if form == "recurrent" and chunk_size is not None:
        raise ValueError(
            f"delta_rule_scan: chunk_size={chunk_size} is for form='chunked'; form='recurrent' has chunks of "
            "its own, so leave chunk_size out"
        )
    if form == "recurrent" and not served:
        raise ValueError(
            "delta_rule_scan: form='recurrent' serves plain float32 tensors on the CPU that no compiler, "
            "tracer or transform watches; take form='auto'"
        )


__all__ = ["CHUNK", "FORMS", "delta_rule_scan"]
