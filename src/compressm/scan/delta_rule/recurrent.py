"""The delta rule on a CPU in float32: operands brought into the kernels' order, and back."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from compressm.scan.runtime import Kernel, run_kernel
from compressm.scan.ssd.packing import (
    factor,
    kept_size,
    kernels_by_width,
    pack,
    pad,
    rows_of,
    strides_of,
    sum_groups,
    unpack,
    workers_for,
)
from compressm.scan.ssd.recurrent_layout import blocks_of, groups_of, width_of

_FORWARD, _BACKWARD = (
    kernels_by_width(f"compressm.scan.delta_rule.{direction}_kernel", direction)
    for direction in ("forward", "backward")
)


class _Rule(NamedTuple):
    """Operands in the kernels' order, but for values and states."""

    q: Tensor
    k: Tensor
    beta: Tensor
    log_decay: Tensor
    V: int
    scale: float
    unit: bool

    @property
    def groups(self) -> int:
        return groups_of(self.q.shape[0] * self.q.shape[2], self.V)

    def words(self, flag: bool) -> list[int]:
        """From the sizes to the strides."""
        batch, L, heads, K = self.q.shape
        sizes = [batch, L, heads, K, blocks_of(self.V), self.groups, int(self.unit), int(flag)]
        return [*sizes, *strides_of(self.q), *strides_of(self.k)]

    def run(self, kernels: dict[int, Kernel], flag: bool, tensors: tuple[Tensor, ...]) -> None:
        read = (factor(self.scale), self.q, self.k, self.log_decay, self.beta)
        words = [*self.words(flag), *(x.data_ptr() for x in (*read, *tensors))]
        run_kernel(kernels[width_of(self.V)], words, workers_for(self.q, self.V))


def recurrent_scan(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None, *, scale: float,
    unit: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As :func:`~compressm.scan.delta_rule.delta_rule_scan`; operands are float32 on a CPU, and fit."""
    operands = (q, k, v, beta, log_decay, state)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in operands):
        results: tuple[Tensor, Tensor] = _Node.apply(*operands, scale, unit)  # type: ignore[no-untyped-call]
        return results
    rule = _Rule(rows_of(q), rows_of(k), beta.contiguous(), log_decay.contiguous(), v.shape[3], scale, unit)
    y, final, _, _ = _forward(rule, v, state, keep=False)
    return y, final


def _forward(
    rule: _Rule, v: Tensor, state: Tensor | None, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs, final state, and with ``keep`` residuals and the states that the backward pass starts from."""
    V = rule.V
    padded, S = pad(v), pack(state, rule.q, V)
    y, residuals = torch.empty_like(padded), padded.new_empty(padded.shape if keep else 0)
    before = y.new_empty(kept_size(rule.q, V) if keep else 0)
    rule.run(_FORWARD, keep, (padded, y, residuals, S, before))
    return y[..., :V].contiguous(), unpack(S, V), residuals, before


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None,
        scale: float, unit: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        q, k, beta, log_decay = rows_of(q), rows_of(k), beta.contiguous(), log_decay.contiguous()
        rule = _Rule(q, k, beta, log_decay, v.shape[3], scale, unit)
        y, final, residuals, before = _forward(rule, v, state, keep=True)
        ctx.save_for_backward(q, k, beta, log_decay, residuals, before)
        ctx.settings, ctx.has_state = rule[4:], state is not None
        # A loss that ignores the final state must not pay for its gradient.
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_y is None and grad_final is None:
            return (None,) * 8
        *operands, residuals, before = ctx.saved_tensors
        rule, fading = _Rule(*operands, *ctx.settings), ctx.needs_input_grad[4]
        grad_y = torch.zeros_like(residuals) if grad_y is None else pad(grad_y)
        carry, V, groups = pack(grad_final, rule.q, rule.V), rule.V, rule.groups
        grad_q, grad_k, grad_beta = (x.new_empty(groups, *x.shape) for x in (rule.q, rule.k, rule.beta))
        grad_decay = rule.beta.new_empty(groups if fading else 0, *rule.beta.shape)
        grad_v = torch.empty_like(residuals)
        grads = (grad_q, grad_k, grad_decay, grad_beta, grad_v, carry)
        rule.run(_BACKWARD, fading, (residuals, before, grad_y, *grads))
        return (
            sum_groups(grad_q),
            sum_groups(grad_k),
            grad_v[..., :V].contiguous(),
            sum_groups(grad_beta),
            sum_groups(grad_decay) if fading else None,
            unpack(carry, V) if ctx.has_state else None,
            None,
            None,
        )
