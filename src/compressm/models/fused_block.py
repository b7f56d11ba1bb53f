"""A training step of the paper's block on a CPU with its parts inside one another.

Part by part, every activation passes through memory between norm, recurrence, GELU and their gradients,
which takes a sixth of a step of wide layers. Here the norm, GELU and their gradients are made while the cache
has the rows that the recurrence reads or has written, the residual's gradient is added where the norm's is
made, and the product of the gated unit remains one for the whole batch.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from compressm.models import norm, pointwise_cpu
from compressm.models.pointwise import MAX_ELEMENTS, ONE_PRODUCT, WORTH_A_KERNEL, seed_for
from compressm.scan.lti import cost, cpu
from compressm.scan.lti.pieces import Pieces
from compressm.scan.runtime import Kernel, addresses, run_kernel
from compressm.scan.runtime.tracing import observed, plain

_MODULE = "compressm.models.fused_block_kernels"
_FORWARD, _BACKWARD = Kernel(_MODULE, "forward"), Kernel(_MODULE, "backward")
_BACKWARD_APPLY = Kernel(_MODULE, "backward_apply")


class BlockOperands(NamedTuple):
    """What a block reads.

    Args:
        x: Inputs ``(batch, L, H)``.
        lam: Eigenvalues ``(2, N)``.
        B: Input matrix ``(2, N, H)``.
        C: Output matrix ``(2, H, N)``.
        D: Direct path ``(H,)``.
        weight: Of the gated linear unit, ``(2 H, H)``.
        bias: ``(2 H,)``.
        mask: ``(batch, L)``, true where inputs are data; they all are if None.
    """

    x: Tensor
    lam: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    weight: Tensor
    bias: Tensor
    mask: Tensor | None = None


def serves(x: Tensor, mask: Tensor | None, N: int, *parameters: Tensor) -> bool:
    """Whether :func:`fused_block` takes inputs with this mask and N states, and is quicker than the parts."""
    batch, L, H = x.shape
    if observed() or torch.is_autocast_enabled("cpu") or not plain(x, *parameters):
        return False
    if not (torch.is_grad_enabled() and any(given.requires_grad for given in (x, *parameters))):
        return False
    if H < ONE_PRODUCT or not WORTH_A_KERNEL <= x.numel() < MAX_ELEMENTS:
        return False
    if mask is not None and not norm.takes(mask, x):
        return False
    if not cpu.workers_share_the_batch(batch):
        return False
    shape = cost.Shape(batch, L, H, H, N)
    return cost.choose_form(shape, training=True, threads=torch.get_num_threads()) == "scan"


def fused_block(
    operands: BlockOperands, count: int, *, eps: float, p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``x + dropout(glu(dropout(gelu(C s + D u))))``, s being the states of inputs ``u = norm(x)``.

    u is zero where the mask has no data, which have no part in the norm's statistics.

    Args:
        operands: Of inputs and parameters that :func:`serves` takes.
        count: Steps of all sequences that are data, at least two.
        eps: Added to the variance in the batch norm.
        p: Probability of dropout, as in :func:`compressm.models.pointwise.gelu_dropout`.

    Returns:
        Outputs ``(batch, L, H)``, and the mean and biased variance ``(H,)`` of the inputs, which have no
        gradient. Outputs and gradients are those of the block's parts up to rounding, dropout's masks the
        same.
    """
    results: tuple[Tensor, Tensor, Tensor] = _FusedBlock.apply(count, eps, p, *operands)  # type: ignore[no-untyped-call]
    return results


class _FusedBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, count: int, eps: float, p: float, *operands: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        *given, mask = (None if operand is None else operand.contiguous() for operand in operands)
        x, lam, B, C, D, weight, bias = cast(list[Tensor], given)
        shape = cost.Shape.of(x, C)
        ctx.count, ctx.p, ctx.keep = count, p, cost.what_to_keep(shape)
        ctx.seeds = seed_for(x, p), seed_for(x, p)
        mean, var = norm.moments(x.view(-1, shape.H), mask, count)
        scale = torch.rsqrt(var + eps).float()
        mean, var = mean.float(), var.float()
        hidden, carry = torch.empty_like(x), x.new_zeros(shape.batch, 2 * shape.N)
        room = _room(x, shape)
        more = [*addresses(mean, scale, room, mask, D, hidden), *pointwise_cpu.dropout_words(ctx.seeds[0], p)]
        y, kept = cpu.forward_by_sequences(
            _FORWARD, _pieces(shape), x, lam, B, C, carry, None, reverse=False, keep=ctx.keep, more=more
        )
        both = torch.mm(hidden.view(-1, shape.H), weight.T)
        out = pointwise_cpu.glu(x, both, bias, ctx.seeds[1], p)
        ctx.save_for_backward(x, lam, B, C, D, weight, bias, mask, mean, scale, y, kept, hidden, both)
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        return out, mean, var

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad_out: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad_out is None:
            return (None,) * (3 + len(BlockOperands._fields))
        x, lam, B, C, D, weight, bias, mask, mean, scale, y, kept, hidden, both = ctx.saved_tensors
        grad_out, shape = grad_out.contiguous(), cost.Shape.of(x, C)
        grad_both, grad_bias = pointwise_cpu.glu_backward(both, bias, grad_out, ctx.seeds[1], ctx.p)
        grad_weight = torch.mm(grad_both.T, hidden.view(-1, shape.H))
        grad_hidden = torch.mm(grad_both, weight)
        sums = x.new_zeros(torch.get_num_threads(), 3, shape.H, dtype=torch.float64)
        rooms = _room(x, shape), _room(x, shape)
        start, carry = (x.new_zeros(shape.batch, 2 * shape.N) for _ in range(2))
        more = addresses(mean, scale, rooms[0], mask, D, y, grad_hidden, rooms[1])
        more += [*pointwise_cpu.dropout_words(ctx.seeds[0], ctx.p), *addresses(sums)]
        grad_u, grad_lam, grad_B, grad_C = cpu.backward_by_sequences(
            _BACKWARD, _pieces(shape), None, x, lam, B, C, start, carry, kept, None, None,
            reverse=False, keep=ctx.keep, more=more,
        )  # fmt: skip
        total, product, grad_D = sums.sum(0)
        grad_mean, slope = (total / ctx.count).float(), (product / ctx.count).float()
        apply = addresses(grad_u, x, grad_out, mean, scale, grad_mean, slope, mask)
        run_kernel(_BACKWARD_APPLY, [shape.batch * shape.L, shape.H, *apply], torch.get_num_threads())
        made = grad_u, grad_lam, grad_B, grad_C, grad_D.float(), grad_weight, grad_bias
        return None, None, None, *made, None


def _pieces(shape: cost.Shape) -> Pieces:
    """Pieces whose inputs and outputs, too, are small enough for the cache."""
    return Pieces.of(shape.batch, shape.L, 4 * max(2 * shape.N, 2 * shape.H))


def _room(x: Tensor, shape: cost.Shape) -> Tensor:
    """Memory for a piece of the inputs, for each worker."""
    return x.new_empty(torch.get_num_threads(), _pieces(shape).rows, shape.H)
