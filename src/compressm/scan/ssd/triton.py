"""Linear attention on a CUDA device: chunks of time side by side, matrix products on tensor cores, in Triton.

One kernel finds what leaves each chunk if nothing enters it, one carries that from chunk to chunk, one makes
the products of queries and earlier keys inside chunks, decayed between them, and one the outputs from all
these. Backward the same four run against time, and one more makes the gradients of queries, keys and decays.
The forward pass keeps what enters each chunk, ``4 K V`` bytes for its steps; no other state crosses the
memory, and decayed products do for the length of a pass, ``4 C`` bytes per step and head for chunks of C.

Chunks have 64 steps with one decay per head, 32 with a decay per key channel, where work in a chunk grows
with the logarithm of its steps too. K and V are padded to 16, or else to a multiple of 32 (12 to 16, 93 to
96), in registers; padding is neither read nor written.

Products take float32 operands apart into three of the tensor cores' TF32 numbers, which keeps float32's
digits; where PyTorch's setting ``torch.backends.cuda.matmul.fp32_precision`` is "tf32", one is enough, at its
about 3 digits. Sums of logarithms keep their digits always. No sum depends on the order in which programs
run: results repeat bit for bit.
"""

from typing import Any

import torch
from torch import Tensor

from compressm.scan.ssd import triton_kernels as kernels
from compressm.scan.ssd import triton_scalar as scalar
from compressm.scan.ssd import triton_vector as vector
from compressm.scan.ssd.triton_plan import Plan, precision

CARRY_BLOCK = 256

# That products and sums are rounded once is said because Triton's default is about to change. Loads are not
# staged ahead where products take float32 apart: these need the registers.
_TILES: dict[str, Any] = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
_GRADIENTS: dict[str, Any] = {**_TILES, "num_warps": 8}
_CARRY: dict[str, Any] = {"BLOCK": CARRY_BLOCK, "STAGES": 4, "num_warps": 4, "enable_fp_fusion": True}

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def scan_forward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, *, scale: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, final state, and with ``keep`` the states that :func:`scan_backward` starts from."""
    q, k, v, g = (x.contiguous() for x in (q, k, v, log_decay))
    plan = Plan.of(q, v, g)
    with torch.cuda.device(q.get_device()):
        entering, final = _entering(plan, k, v, g, state, 1.0, adjoint=False)
        y = _outputs(plan, _scores(plan, q, k, g), q, v, g, entering, scale, adjoint=False)
    # Flat, as a traced dimension of one chunk would make graphs of its own.
    return y, final, entering.flatten() if keep else q.new_empty(0)


def scan_backward(
    grad_y: Tensor | None, grad_final: Tensor | None,
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, entering: Tensor, *, scale: float,
) -> Gradients:  # fmt: skip
    """Gradients of q, k, v, the logarithms of decays, and the initial state."""
    q, k, v, g = (x.contiguous() for x in (q, k, v, log_decay))
    grad_y = torch.zeros_like(v) if grad_y is None else grad_y.contiguous()
    plan = Plan.of(q, v, g)
    grad_q, grad_k = torch.empty_like(q), torch.empty_like(k)
    with torch.cuda.device(q.get_device()):
        returning, grad_state = _entering(plan, q, grad_y, g, grad_final, scale, adjoint=True)
        scores, wanted = _scores(plan, q, k, g), plan.pairs(q)
        kernels.weights[(plan.places,)](
            grad_y, v, wanted, scale, plan.L, plan.heads, plan.V, plan.chunks,
            STEPS=plan.steps, BLOCK_V=plan.block_v, PRECISION=precision(), **_TILES,
        )  # fmt: skip
        grad_v = _outputs(plan, scores, k, grad_y, g, returning, scale, adjoint=True)
        ends, sizes = (entering, returning, grad_q, grad_k), (scale, *plan.sizes)
        grid, flags = (plan.places, plan.blocks_k), {**plan.blocks(), **_GRADIENTS}
        if plan.per_channel:
            grad_g = torch.empty_like(g)
            vector.gradients[grid](
                q, k, v, g, grad_y, wanted, *ends, grad_g, *sizes, LEVELS=plan.levels, **flags
            )
        else:
            shares = g.new_empty(plan.blocks_k, *g.shape)
            scalar.gradients[grid](q, k, v, g, grad_y, scores, wanted, *ends, shares, *sizes, **flags)
            grad_g = shares.sum(0)
    return grad_q, grad_k, grad_v, grad_g, grad_state


def _entering(
    plan: Plan, x: Tensor, y: Tensor, g: Tensor, start: Tensor | None, scale: float, *, adjoint: bool
) -> tuple[Tensor, Tensor]:
    """What enters each chunk, (batch, heads, chunks, K, V), and what leaves the last."""
    batch, heads, K, V, chunks = plan.batch, plan.heads, plan.K, plan.V, plan.chunks
    ends = x.new_empty(batch, heads, chunks, K, V)
    totals = x.new_empty(batch, heads, chunks, K if plan.per_channel else 1)
    flags = {"PER_CHANNEL": plan.per_channel, "ADJOINT": adjoint}
    kernels.chunk_ends[(plan.places, plan.blocks_k, plan.blocks_v)](
        x, y, g, ends, totals, scale, *plan.sizes, **plan.blocks(), **flags, **_TILES
    )
    initial = x.new_zeros(batch, heads, K, V) if start is None else start.contiguous()
    final = torch.empty_like(initial)
    kernels.carry[(batch * heads, -(-K * V // CARRY_BLOCK))](
        ends, totals, initial, final, K, V, chunks, **flags, **_CARRY
    )
    return ends, final


def _scores(plan: Plan, q: Tensor, k: Tensor, g: Tensor) -> Tensor:
    """Products of queries and earlier keys inside chunks, decayed between them."""
    scores = plan.pairs(q)
    levels = {"LEVELS": plan.levels} if plan.per_channel else {}
    (vector if plan.per_channel else scalar).scores[(plan.places,)](
        q, k, g, scores, plan.L, plan.heads, plan.K, plan.chunks,
        STEPS=plan.steps, BLOCK_K=plan.block_k, PRECISION=precision(), **levels, **_TILES,
    )  # fmt: skip
    return scores


def _outputs(
    plan: Plan,
    scores: Tensor,
    x: Tensor,
    y: Tensor,
    g: Tensor,
    states: Tensor,
    scale: float,
    *,
    adjoint: bool,
) -> Tensor:
    """Outputs from queries x and values y; or gradients of values from keys x and gradients y of outputs."""
    result = torch.empty_like(y)
    kernels.outputs[(plan.places, plan.blocks_v)](
        scores, x, y, g, states, result, scale, *plan.sizes, **plan.blocks(),
        PER_CHANNEL=plan.per_channel, ADJOINT=adjoint, **_TILES,
    )  # fmt: skip
    return result
