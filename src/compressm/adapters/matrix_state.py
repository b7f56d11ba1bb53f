"""The states that layers with a matrix for a state really visit, and the adjoint states beside them.

Mamba-2, gated linear attention, RetNet and the delta rules are one recurrence with different operands: keys
write values into a matrix ``S`` of ``K x V`` in each head, and queries read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compressm.adapters.weighting import Weighting
from compressm.scan import linear_attention_scan
from compressm.scan.delta_rule import delta_rule_scan

MAX_STEPS = 1 << 12
"""Time steps that are run at most. Neighbouring sequences tell the same, so of more only every second, third,
... is taken, and of a sequence that is longer its beginning."""

PORTION = 1 << 11
"""Time steps that are run together, which bounds the memory."""


@dataclass(frozen=True)
class MatrixStates:
    r"""Operands of ``S_t = a_t S_{t-1} + k_t (b_t (v_t - (a_t S_{t-1})^T k_t))^T``, ``y_t = c S_t^T q_t``.

    Without ``strengths`` nothing is corrected: ``S_t = a_t S_{t-1} + k_t v_t^T``.

    Attributes:
        queries: ``q`` ``(batch, L, heads, K)``.
        keys: ``k``, of the same shape.
        values: ``v`` ``(batch, L, heads, V)``.
        log_decay: ``log a``, ``(batch, L, heads)`` or ``(batch, L, heads, K)``.
        strengths: ``b`` of the delta rule, ``(batch, L, heads)``, or None.
        scale: ``c``.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    log_decay: Tensor
    strengths: Tensor | None = None
    scale: float = 1.0

    def outputs(self) -> Tensor:
        """``y`` ``(batch, L, heads, V)``."""
        operands = self.queries, self.keys, self.values
        if self.strengths is None:
            return linear_attention_scan(*operands, self.log_decay, scale=self.scale)[0]
        return delta_rule_scan(*operands, self.strengths, self.log_decay, scale=self.scale)[0]

    def states(self) -> Iterator[Tensor]:
        """``S_t`` ``(batch, heads, K, V)`` for ``t = 0, 1, ...``, from zero."""
        S = torch.zeros_like(self.keys[:, 0, :, :, None] * self.values[:, 0, :, None])
        for t in range(self.keys.shape[1]):
            S = self._decay(t) * S
            key, value = self.keys[:, t, :, :, None], self.values[:, t, :, None]
            if self.strengths is not None:
                value = self.strengths[:, t, :, None, None] * (value - (key * S).sum(dim=2, keepdim=True))
            S = S + key * value
            yield S

    def adjoint_states(self, gradients: Tensor) -> Iterator[Tensor]:
        """``dLoss/dS_t`` with all that follows from ``S_t``, for ``t = L - 1, L - 2, ...``.

        Args:
            gradients: ``dLoss/dy`` ``(batch, L, heads, V)``.
        """
        W = torch.zeros_like(self.queries[:, 0, :, :, None] * gradients[:, 0, :, None])
        for t in range(self.keys.shape[1] - 1, -1, -1):
            W = W + self.scale * self.queries[:, t, :, :, None] * gradients[:, t, :, None]
            yield W
            if self.strengths is not None:
                key = self.keys[:, t, :, :, None]
                W = W - key * self.strengths[:, t, :, None, None] * (key * W).sum(dim=2, keepdim=True)
            W = self._decay(t) * W

    def _decay(self, t: int) -> Tensor:
        decay = self.log_decay[:, t].exp()
        return decay[..., None, None] if decay.dim() == 2 else decay[..., None]


class StateEnergies:
    """Gathers what every row of ``S`` holds, what it adds to the outputs, and what the loss asks of it."""

    def __init__(self) -> None:
        self._held: list[Tensor] = []
        self._added: list[Tensor] = []
        self._asked: list[Tensor] = []
        self._steps = 0

    def add(self, run: MatrixStates, gradients: Tensor | None) -> None:
        """Run a portion; ``gradients`` are those by its outputs, if they are known."""
        held, added, asked = (run.keys.new_zeros(run.keys.shape[2:]) for _ in range(3))
        for t, S in enumerate(run.states()):
            rows = S.square().sum(dim=-1)
            held += rows.sum(dim=0)
            added += (rows * (run.scale * run.queries[:, t]).square()).sum(dim=0)
        self._held.append(held.to("cpu", torch.float64))
        self._added.append(added.to("cpu", torch.float64))
        if gradients is not None:
            for W in run.adjoint_states(gradients):
                asked += W.square().sum(dim=(0, -1))
            self._asked.append(asked.to("cpu", torch.float64))
        self._steps += run.keys.shape[0] * run.keys.shape[1]

    def amplitudes(self, groups: int) -> Tensor:
        """Scores of the rows, ``(groups, K)``, float64: those of consecutive heads of a group added up.

        With gradients the geometric mean of two energies, that of the states and that of the adjoint states:
        the diagonal form of a Hankel singular value. Without them the amplitude that a row adds to the
        outputs, relative to the group's, because a norm follows the outputs.
        """
        if self._asked:
            joint = torch.sqrt(sum_of(self._held) * sum_of(self._asked)) / self._steps
            return joint.reshape(groups, -1, joint.shape[-1]).sum(dim=1)
        added = sum_of(self._added)
        return relative(added.reshape(groups, -1, added.shape[-1]).sum(dim=1).sqrt())


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(list(parts)).sum(dim=0)


def relative(amplitudes: Tensor) -> Tensor:
    """Rows ``(..., K)`` scaled to length one; those that are zero stay."""
    length = torch.linalg.vector_norm(amplitudes, dim=-1, keepdim=True)
    return amplitudes / torch.where(length > 0, length, 1.0)


def portions(weighting: Weighting, what: str, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Recorded inputs ``(sequences, L, H)`` a few at a time, each with the gradients by its outputs, or None.

    Args:
        weighting: The recorded signals.
        what: What they are needed for, for messages.
        like: Type, at least float32, and device are this parameter's.

    Raises:
        ValueError: If there are no inputs, some are not finite, or gradients do not belong to them.
    """
    check_recorded(weighting.inputs, what)
    if weighting.gradients:
        check_recorded(weighting.gradients, what, "gradients")
    gradients: Sequence[Tensor | None] = weighting.gradients or [None] * len(weighting.inputs)
    if len(gradients) != len(weighting.inputs) or any(
        g is not None and g.shape[:2] != u.shape[:2]
        for g, u in zip(gradients, weighting.inputs, strict=False)
    ):
        raise ValueError(
            f"{what}: recorded gradients {[tuple(g.shape) for g in weighting.gradients]} do not belong to "
            f"recorded inputs {[tuple(u.shape) for u in weighting.inputs]}; run one backward pass for every "
            "forward pass in training mode"
        )
    stride = max(1, sum(u.shape[0] * min(u.shape[1], MAX_STEPS) for u in weighting.inputs) // MAX_STEPS)
    place = like.device, torch.promote_types(like.dtype, torch.float32)
    for u, g in zip(weighting.inputs, gradients, strict=True):
        together = max(1, PORTION // u.shape[1]) * stride
        for start in range(0, len(u), together):
            part = slice(start, start + together, stride), slice(0, MAX_STEPS)
            yield u[part].to(*place), None if g is None else g[part].to(*place)


def check_recorded(
    signals: Sequence[Tensor], what: str, name: Literal["inputs", "gradients"] = "inputs"
) -> None:
    """Refuse signals that are missing or not finite.

    Raises:
        ValueError: Naming what they are needed for.
    """
    if not signals:
        raise ValueError(f"{what} needs recorded {name}, and there are none: give calibration batches")
    if not all(bool(torch.isfinite(signal).all()) for signal in signals):
        raise ValueError(f"{what}: recorded {name} hold values that are not finite")
