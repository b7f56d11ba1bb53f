"""What a layer of linear attention is made of, in this library and in flash-linear-attention.

Parameters have the same names; how many heads there are, what stands between projections and recurrence, and
which attributes repeat sizes differs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressm.adapters.matrix_state import MatrixStates
from compressm.layers import RetNet
from compressm.layers.conv import causal_convolution
from compressm.layers.linear_attention import split_heads

_NORMS = ("g_norm_swish_gate", "g_norm", "o_norm")
_ESSENTIAL = frozenset({"q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"})
_CONVOLUTIONS = frozenset(f"{part}_conv1d.{kind}" for part in "qkv" for kind in ("weight", "bias"))
_GATES = frozenset({"gk_proj.0.weight", "gk_proj.1.weight", "gk_proj.1.bias"})
_DELTA = frozenset({"b_proj.weight"})
_DECAY = frozenset({"a_proj.weight", "A_log", "dt_bias"})
_OUTPUT = frozenset({"g_proj.weight", "g_proj.bias", *(f"{norm}.weight" for norm in _NORMS)})


class AttentionSizes(NamedTuple):
    """Sizes of a layer of linear attention, read off its parameters.

    Attributes:
        heads: Heads of queries.
        groups: Heads of keys, each shared by as many heads of queries.
        run: Heads of the recurrence: heads of queries or of values, whichever are more.
        states: ``K``, key channels of a head.
    """

    heads: int
    groups: int
    run: int
    states: int


def sizes(layer: Any) -> AttentionSizes:
    """Read off the sizes of a layer of linear attention."""
    states = layer.q_proj.weight.shape[0] // layer.num_heads
    heads = layer.num_heads
    run = max(heads, getattr(layer, "num_v_heads", None) or 0)
    return AttentionSizes(heads, layer.k_proj.weight.shape[0] // states, run, states)


def is_gated_attention(module: nn.Module) -> bool:
    """Whether a module is flash-linear-attention's ``GatedLinearAttention``, by structure."""
    return _has(module, _ESSENTIAL | _GATES, _CONVOLUTIONS | _OUTPUT)


def is_delta_rule(module: nn.Module) -> bool:
    """Whether a module is flash-linear-attention's ``DeltaNet`` or ``GatedDeltaNet``, by structure.

    Queries and keys have to pass convolutions and SiLU and be scaled to length one, as is its default.
    """
    convolutions = frozenset({"q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"})
    needed = _ESSENTIAL | convolutions | (_DECAY if hasattr(module, "A_log") else frozenset())
    return (
        _has(module, needed | _DELTA, _CONVOLUTIONS | _OUTPUT)
        and getattr(module, "qk_activation", "silu") == "silu"
        and getattr(module, "qk_norm", "l2") == "l2"
    )


def _has(module: nn.Module, needed: frozenset[str], allowed: frozenset[str]) -> bool:
    """Whether a module has the needed parameters, no others than the allowed ones, and sizes of heads."""
    names = {name for name, _ in module.named_parameters()}
    if not (needed <= names <= needed | allowed) or not hasattr(module, "head_k_dim"):
        return False
    # A rotary phase turns pairs of key channels: none of them can go alone.
    return hasattr(module, "num_heads") and getattr(module, "rotary", None) is None


def keys_and_queries(layer: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    """After convolution and nonlinearity, before their length is made one.

    Args:
        layer: The layer.
        u: Inputs ``(batch, L, H)``.

    Returns:
        ``(batch, L, groups, 1, K)`` and ``(batch, L, groups, heads of the group, K)``.
    """
    size = sizes(layer)
    feature_map = getattr(layer, "feature_map_fn", None) or (lambda x: x)
    k, q = (feature_map(_projected(layer, part, u)) for part in "kq")
    shape = *u.shape[:2], size.groups, -1, size.states
    return k.reshape(shape), q.reshape(shape)


def queries_are_linear(layer: Any) -> bool:
    """Whether a number can be folded into the queries' projection: nothing but a product stands after it."""
    straight = getattr(layer, "q_conv1d", None) is None and getattr(layer, "feature_map_fn", None) is None
    return straight and not hasattr(layer, "b_proj")


def recurrence(layer: Any, u: Tensor) -> MatrixStates:
    """The layer's recurrence for inputs ``(batch, L, H)``, in their type."""
    size = sizes(layer)
    k, q = keys_and_queries(layer, u)
    k = k.expand(*k.shape[:3], q.shape[3], size.states).flatten(2, 3)
    q, v = q.flatten(2, 3), _by_values(layer, _projected(layer, "v", u))
    q, k, v = (x.repeat_interleave(size.run // x.shape[2], dim=2) for x in (q, k, v))
    strengths = None
    if hasattr(layer, "b_proj"):
        q, k = (x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + 1e-6) for x in (q, k))
        reflecting = getattr(layer, "negative_eigenvalues", False) or getattr(
            layer, "allow_neg_eigval", False
        )
        strengths = torch.sigmoid(_linear(layer.b_proj, u)) * (2 if reflecting else 1)
    return MatrixStates(q, k, v, _log_decay(layer, u, size), strengths, scale=size.states**-0.5)


def gradients_by_states(layer: Any, u: Tensor, run: MatrixStates, gradients: Tensor) -> Tensor:
    """Gradients by what the recurrence gives, ``(batch, L, heads, V)``, from those by the layer's outputs.

    They pass the output projection, the gate, and the norm in each head.
    """
    name = next(name for name in _NORMS if hasattr(layer, name))
    norm = getattr(layer, name)
    by_gated = _by_values(layer, gradients @ layer.o_proj.weight.to(u.dtype))
    if getattr(layer, "g_proj", None) is not None:
        by_gated = by_gated * _by_values(layer, getattr(layer, "gate_fn", F.silu)(_linear(layer.g_proj, u)))
    weight = None if norm.weight is None else norm.weight.detach().to(u.dtype)
    with torch.enable_grad():
        y = run.outputs().detach().requires_grad_()
        normed = F.rms_norm(y, y.shape[-1:], weight, norm.eps)
        return torch.autograd.grad(normed, y, by_gated)[0]


def _log_decay(layer: Any, u: Tensor, size: AttentionSizes) -> Tensor:
    """``(batch, L, heads)``, or ``(batch, L, heads, K)`` for gates."""
    if isinstance(layer, RetNet):
        return layer.log_decay(u).to(u.dtype)
    if hasattr(layer, "gk_proj"):
        gates = F.logsigmoid(_linear(layer.gk_proj[1], _linear(layer.gk_proj[0], u)))
        gates = gates / _normalizer(layer)
        if getattr(layer, "clamp_min", None) is not None:
            gates = gates.clamp(min=layer.clamp_min)
        return split_heads(gates, size.groups).repeat_interleave(size.run // size.groups, dim=2)
    if hasattr(layer, "A_log"):
        time = F.softplus(_linear(layer.a_proj, u) + layer.dt_bias.to(u.dtype))
        return -torch.exp(layer.A_log.to(u.dtype)) * time
    return u.new_zeros(*u.shape[:2], size.run)


def _normalizer(layer: Any) -> float:
    return float(layer.gate_normalizer if hasattr(layer, "gate_normalizer") else layer.gate_logit_normalizer)


def _by_values(layer: Any, x: Tensor) -> Tensor:
    """``(batch, L, heads V)`` as ``(batch, L, heads, V)``."""
    # What is value_dim here is head_v_dim in flash-linear-attention, where value_dim counts all heads.
    channels = layer.head_v_dim if hasattr(layer, "head_v_dim") else layer.value_dim
    return x.reshape(*x.shape[:2], -1, channels)


def _projected(layer: Any, part: str, u: Tensor) -> Tensor:
    """Queries, keys or values after their convolution, if they have one."""
    x = _linear(getattr(layer, f"{part}_proj"), u)
    convolution = getattr(layer, f"{part}_conv1d", None)
    if convolution is None:
        return x
    bias = convolution.bias
    x, _ = causal_convolution(
        x, None, convolution.weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    )
    # Ours have SiLU behind them, flash-linear-attention's in themselves, or none.
    return F.silu(x) if getattr(convolution, "activation", "silu") in ("silu", "swish") else x


def _linear(projection: Any, u: Tensor) -> Tensor:
    bias = projection.bias
    return F.linear(u, projection.weight.to(u.dtype), None if bias is None else bias.to(u.dtype))
