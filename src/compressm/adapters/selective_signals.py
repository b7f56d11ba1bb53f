"""Empirical Gramians of a selective layer: of the states that recorded inputs drive, and of their adjoints.

The adjoint state is the gradient of the loss by the state, with all that comes later:
``g_t = C_t dy_t + exp(Δ_{t+1} A) g_{t+1}``, where ``dy`` is the gradient by what the recurrence puts out. All
channels of a layer share ``B_t`` and ``C_t``, so Gramians are summed over channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.adapters.mamba_structure import PARTS, Part, norm_name, time_step_rank

MAX_STEPS = 1 << 12
"""Time steps that are run, about: every channel runs each of them, and neighbouring ones tell the same."""
MAX_STATE_ROWS = 1 << 16
"""Vectors of states, one for each channel and time step, that enter a Gramian, about."""

_TOGETHER = 1 << 21  # states of sequences that are run together


class Operands(NamedTuple):
    """What the recurrence of a layer runs on, made from its inputs.

    Attributes:
        x: Inputs of the recurrence, ``(batch, L, d)``.
        z: Gate before SiLU, ``(batch, L, d)``.
        delta: Time steps, ``(batch, L, d)``.
        B: ``(batch, L, N)``.
        C: ``(batch, L, N)``.
    """

    x: Tensor
    z: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor


@dataclass(frozen=True, eq=False)
class StateMoments:
    """Second moments of states, or of adjoint states, over sequences and time.

    Attributes:
        gramian: ``E[h h^T]``, summed over channels: float64 ``(N, N)``.
        energies: ``E[h^2]`` of every channel: float64 ``(d, N)``; summed over channels, the diagonal.
    """

    gramian: Tensor
    energies: Tensor


def operands(layer: Any, u: Tensor) -> Operands:
    """Run a Mamba layer up to its recurrence, in float32 or the wider type of its parameters.

    Args:
        layer: The layer.
        u: Its inputs ``(batch, L, H)``.
    """
    dtype = torch.promote_types(layer.in_proj.weight.dtype, torch.float32)

    def cast(parameter: Tensor | None) -> Tensor | None:
        return None if parameter is None else parameter.to(dtype)

    weight, filters = layer.in_proj.weight.to(dtype), layer.conv1d.weight.to(dtype)
    xz = F.linear(u.to(weight.device, dtype), weight, cast(layer.in_proj.bias))
    x, z = xz.chunk(2, dim=-1)
    padding = filters.shape[2] - 1
    x = F.conv1d(x.mT, filters, cast(layer.conv1d.bias), padding=padding, groups=len(filters))
    x = getattr(layer, "act", F.silu)(x[..., : u.shape[1]].mT)
    rank, states = time_step_rank(layer), layer.A_log.shape[1]
    parts = torch.split(F.linear(x, layer.x_proj.weight.to(dtype)), [rank, states, states], dim=-1)
    dt, B, C = (_normed(layer, part, values) for part, values in zip(PARTS, parts, strict=True))
    delta = F.softplus(F.linear(dt, layer.dt_proj.weight.to(dtype), cast(layer.dt_proj.bias)))
    return Operands(x, z, delta, B, C)


@torch.no_grad()
def state_moments(layer: Any, inputs: Sequence[Tensor]) -> StateMoments:
    """Moments of the states that ``inputs``, each ``(sequences, L, H)``, drive from zero.

    Raises:
        ValueError: If there are none, or one is not finite.
    """
    _check("inputs", inputs)
    total = _Total(layer, inputs)
    for u in total.pieces(inputs):
        x, _, delta, B, _ = operands(layer, u)
        total.add(delta, delta * x, B, reverse=False)
    return total.moments()


@torch.no_grad()
def adjoint_moments(layer: Any, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> StateMoments:
    """Moments of the adjoint states that gradients of the layer's outputs drive, against time.

    Args:
        layer: The layer.
        inputs: Its inputs, each ``(sequences, L, H)``: time steps and ``C`` depend on them.
        gradients: Gradients by its outputs, of the same shapes and in the same order.

    Raises:
        ValueError: If there are none, one is not finite, or they do not belong together.
    """
    _check("inputs", inputs)
    _check("gradients", gradients)
    if [u.shape for u in inputs] != [g.shape for g in gradients]:
        raise ValueError(
            "recorded inputs and gradients do not belong together: "
            f"{[tuple(u.shape) for u in inputs]} and {[tuple(g.shape) for g in gradients]}; record passes "
            "that each run forward once, then backward"
        )
    total = _Total(layer, inputs)
    for u, g in zip(total.pieces(inputs), total.pieces(gradients), strict=True):
        _, z, delta, _, C = operands(layer, u)
        dy = F.linear(g.to(z.device, z.dtype), layer.out_proj.weight.to(z.dtype).T) * F.silu(z)
        total.add(delta, dy, C, reverse=True)
    return total.moments()


class _Total:
    """Runs sequences and adds up the moments of a part of their time steps.

    Never more than a few sequences at one time step are in memory. Neighbouring steps tell the same, so
    of many sequences every second, third, ... is run, and of their steps every second, third, ... is added.
    """

    def __init__(self, layer: Any, signals: Sequence[Tensor]) -> None:
        self._A = -torch.exp(layer.A_log.to(torch.promote_types(layer.A_log.dtype, torch.float32)))
        channels, states = self._A.shape
        steps = sum(signal.shape[0] * signal.shape[1] for signal in signals)
        self._thinning = max(1, steps // MAX_STEPS)
        self._stride = max(1, steps // self._thinning * channels // MAX_STATE_ROWS)
        self._sequences = max(1, _TOGETHER // (channels * states))
        self._gramian = torch.zeros(states, states, dtype=torch.float64)
        self._energies = torch.zeros(channels, states, dtype=torch.float64)
        self._count = 0

    def pieces(self, signals: Sequence[Tensor]) -> list[Tensor]:
        """The sequences that are run, a few at a time."""
        thinned = (signal[:: self._thinning] for signal in signals)
        return [piece for signal in thinned for piece in torch.split(signal, self._sequences)]

    def add(self, delta: Tensor, drive: Tensor, into: Tensor, *, reverse: bool) -> None:
        """Run ``h_t = exp(delta_t A) h_{t-1} + drive_t into_t``, or its adjoint against time."""
        length = delta.shape[1]
        stride = min(self._stride, length)
        h = delta.new_zeros(delta.shape[0], *self._A.shape)
        for t in reversed(range(length)) if reverse else range(length):
            # Against time, a state decays by the step that leads away from it: that of the time after.
            source = t + 1 if reverse else t
            if source < length:
                h.mul_(torch.exp(delta[:, source, :, None] * self._A))
            h.addcmul_(drive[:, t, :, None], into[:, t, None, :])
            if t % stride == stride // 2:
                self._add_rows(h.to("cpu", torch.float64))

    def _add_rows(self, h: Tensor) -> None:
        rows = h.flatten(0, 1)
        self._gramian += rows.mT @ rows
        self._energies += h.square().sum(dim=0)
        self._count += len(h)

    def moments(self) -> StateMoments:
        return StateMoments(self._gramian / self._count, self._energies / self._count)


def _normed(layer: Any, part: Part, values: Tensor) -> Tensor:
    name = norm_name(layer, part)
    if name is None:
        return values
    normed: Tensor = getattr(layer, name)(values)
    return normed.to(values.dtype)


def _check(name: str, signals: Sequence[Tensor]) -> None:
    if not signals:
        raise ValueError(f"a selective layer's energies need recorded {name}, and there are none")
    if not all(bool(torch.isfinite(signal).all()) for signal in signals):
        raise ValueError(f"recorded {name} hold values that are not finite")
