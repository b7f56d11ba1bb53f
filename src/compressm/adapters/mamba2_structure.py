"""What a Mamba-2 layer is made of, in this library and in others: how to know one, and what it computes.

``mamba_ssm.Mamba2`` and the mixers of Transformers' Mamba2, Bamba, Zamba2, Falcon-H1, Nemotron-H and Granite
hybrids have the same parameters under the same names as :class:`compressm.layers.Mamba2`. They differ in
attributes that repeat sizes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressm.adapters.matrix_state import MatrixStates
from compressm.layers.conv import causal_convolution
from compressm.layers.linear_attention import split_heads

_ESSENTIAL = frozenset({"in_proj.weight", "conv1d.weight", "dt_bias", "A_log", "D", "out_proj.weight"})
_KNOWN = _ESSENTIAL | {"norm.weight", "in_proj.bias", "conv1d.bias", "out_proj.bias"}
_GROUPS = ("num_groups", "n_groups", "ngroups")
_LIMITS = ("dt_limit", "time_step_limit")


class Mamba2Sizes(NamedTuple):
    """Sizes of a Mamba-2 layer, read off its parameters.

    Attributes:
        heads: ``M``.
        groups: ``G``.
        inner: ``d``, channels of all heads.
        beside: Channels of a gated feed-forward part that shares the projections; zero in most.
        states: ``N``.
    """

    heads: int
    groups: int
    inner: int
    beside: int
    states: int

    @property
    def first_B(self) -> int:
        """First row of ``in_proj`` that makes ``B``; those of ``C`` come after ``G N`` rows."""
        return 2 * self.beside + 2 * self.inner


def sizes(layer: Any) -> Mamba2Sizes:
    """Read off the sizes of a Mamba-2 layer."""
    heads, groups = layer.A_log.shape[0], _attribute(layer, _GROUPS, 1)
    channels, inside = layer.conv1d.weight.shape[0], layer.out_proj.weight.shape[1]
    beside = layer.in_proj.weight.shape[0] - channels - heads - inside
    inner = inside - beside
    return Mamba2Sizes(heads, groups, inner, beside, (channels - inner) // (2 * groups))


def is_mamba2(module: nn.Module) -> bool:
    """Whether a module is a Mamba-2 layer: by names and shapes of its parameters.

    One that has other parameters, too (learned initial states, adapters for fine-tuning), is none: a cut
    would leave them behind.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    if not (_ESSENTIAL <= shapes.keys() <= _KNOWN) or not any(hasattr(module, name) for name in _GROUPS):
        return False
    if len(shapes["A_log"]) != 1 or len(shapes["conv1d.weight"]) != 3:
        return False
    found = sizes(module)
    return (
        found.beside >= 0
        and found.inner > 0
        and found.states > 0
        and shapes["conv1d.weight"][:2] == (found.inner + 2 * found.groups * found.states, 1)
        and found.inner % found.heads == 0
        and found.heads % found.groups == 0
    )


class Mamba2Signals(NamedTuple):
    """What a Mamba-2 layer makes of its inputs.

    Attributes:
        gate: ``z`` before SiLU, ``(batch, L, d)``.
        x: Values, ``(batch, L, M, P)``.
        B: After convolution and SiLU, ``(batch, L, G, N)``.
        C: The same.
        delta: Time steps, ``(batch, L, M)``.
    """

    gate: Tensor
    x: Tensor
    B: Tensor
    C: Tensor
    delta: Tensor


def signals(layer: Any, u: Tensor) -> Mamba2Signals:
    """Run a layer up to its recurrence, in the type of ``u`` ``(batch, L, H)``."""
    size = sizes(layer)
    # Falcon-H1 multiplies what goes into the projection, and each part that comes out, by a number.
    projected = _linear(layer.in_proj, u * getattr(layer, "ssm_in_multiplier", 1.0))
    projected = projected * getattr(layer, "mup_vector", torch.ones((), device=u.device)).to(u.dtype)
    channels, wide = layer.conv1d.weight.shape[0], size.groups * size.states
    parts = [2 * size.beside, size.inner, channels, size.heads]
    _, gate, xBC, dt = torch.split(projected, parts, dim=-1)
    bias = layer.conv1d.bias
    xBC, _ = causal_convolution(
        xBC, None, layer.conv1d.weight.to(u.dtype), None if bias is None else bias.to(u.dtype)
    )
    x, B, C = torch.split(getattr(layer, "act", F.silu)(xBC), [size.inner, wide, wide], dim=-1)
    delta = F.softplus(dt + layer.dt_bias.to(u.dtype)).clamp(*_attribute(layer, _LIMITS, (0.0, torch.inf)))
    return Mamba2Signals(
        gate,
        split_heads(x, size.heads),
        split_heads(B, size.groups),
        split_heads(C, size.groups),
        delta,
    )


def recurrence(layer: Any, found: Mamba2Signals) -> MatrixStates:
    """The layer's recurrence: ``B`` as keys, ``C`` as queries, ``Δ x`` as values."""
    repeats = found.x.shape[2] // found.B.shape[2]
    rates = -torch.exp(layer.A_log.to(found.delta.dtype))
    return MatrixStates(
        queries=found.C.repeat_interleave(repeats, dim=2),
        keys=found.B.repeat_interleave(repeats, dim=2),
        values=found.delta[..., None] * found.x,
        log_decay=found.delta * rates,
    )


def gradients_by_states(layer: Any, found: Mamba2Signals, run: MatrixStates, gradients: Tensor) -> Tensor:
    """Gradients by what the recurrence gives, ``(batch, L, M, P)``, from those by the layer's outputs.

    They pass the output projection and the gated norm, in which all heads of a group meet.
    """
    y = run.outputs()
    D = layer.D.to(y.dtype).reshape(layer.A_log.shape[0], -1)
    beside = sizes(layer).beside
    by_normed = gradients @ layer.out_proj.weight[:, beside:].to(y.dtype)
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        whole = (y + D.detach() * found.x.detach()).flatten(-2)
        norm, gate = getattr(layer, "norm", nn.Identity()), found.gate.detach()
        # Without a norm only the gate is left.
        normed = whole * F.silu(gate) if isinstance(norm, nn.Identity) else norm(whole, gate)
        return torch.autograd.grad(normed, y, by_normed.to(normed.dtype))[0]


def _linear(projection: Any, u: Tensor) -> Tensor:
    bias = projection.bias
    return F.linear(u, projection.weight.to(u.dtype), None if bias is None else bias.to(u.dtype))


def _attribute(layer: Any, names: tuple[str, ...], otherwise: Any) -> Any:
    return next((getattr(layer, name) for name in names if hasattr(layer, name)), otherwise)
