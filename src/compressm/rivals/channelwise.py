"""The published treatment of Mamba: every channel in balanced coordinates of its own (CompreSSM, appendix).

A channel is replaced by a time-invariant system with the averages of ``Δ_t``, ``B_t`` and ``C_t``; that one
is balanced, and its transformation is applied to the channel as it really runs,
``h_t = T_l (exp(Δ_t A_d) T_r h_{t-1} + Δ_t B_t x_t)``, ``y_t = C_t T_r h_t``. The channels share ``B_t`` and
``C_t``, so the transformations fold into no parameter: they are kept and applied at every step. Stock kernels
do not know them; this is a slow form to evaluate, so that methods can be compared by loss at equal size.

Directions with small Hankel singular values are harmless in the average, but not in the channel that varies:
measured on a character language model, 8 of 32 states are worse than 1 or 2. So the tolerance matters.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressm.adapters import CompressibleLayer, MambaAdapter, find_layers
from compressm.adapters.parameters import double
from compressm.adapters.selective_signals import operands
from compressm.compression.calibration import Batch, replay
from compressm.compression.signals import SignalRecorder
from compressm.layers import StateSpaceLayer
from compressm.lti import Balancing, balance_channels, energy_rank


class ChannelwiseMamba(nn.Module):
    """A Mamba layer whose channels run in coordinates of their own, step by step, for evaluation.

    Args:
        layer: The layer; its parameters are used as they are.
        right: ``T_r`` of every channel, ``(d, N, r)``.
        left: ``T_l`` of every channel, ``(d, r, N)``.
    """

    right: Tensor
    left: Tensor

    def __init__(self, layer: nn.Module, right: Tensor, left: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("right", right, persistent=False)
        self.register_buffer("left", left, persistent=False)

    @property
    def state_dim(self) -> int:
        """States ``r`` of every channel."""
        return self.right.shape[2]

    @torch.no_grad()
    def forward(self, u: Tensor, state: Any = None, **options: Any) -> Any:
        """Map ``(batch, L, H)`` to the same shape, in a tuple where the layer returns one.

        Raises:
            ValueError: If a state or a cache is given: sequences begin at zero.
        """
        kept = {"state": state} | {name: options.get(name) for name in ("cache", "cache_params")}
        for name, value in kept.items():
            if value is not None:
                raise ValueError(f"a ChannelwiseMamba runs whole sequences from zero; leave out {name}")
        layer: Any = self.layer
        x, z, delta, B, C = operands(layer, u)
        A = -torch.exp(layer.A_log.to(x.dtype))
        right, left = self.right.to(x), self.left.to(x)
        # Time first and sequences last: what channels do at a step is one product of matrices for each.
        drive, delta, B, C = (signal.permute(1, 2, 0) for signal in (delta * x, delta, B, C))
        seen = x.new_zeros(*A.shape, u.shape[0])  # T_r h
        outputs = []
        for t in range(u.shape[1]):
            whole = torch.exp(delta[t][:, None] * A[..., None]).mul_(seen).addcmul_(drive[t][:, None], B[t])
            seen = torch.bmm(right, torch.bmm(left, whole))
            outputs.append((C[t] * seen).sum(dim=1))
        y = (torch.stack(outputs).permute(2, 0, 1) + layer.D.to(x.dtype) * x) * F.silu(z)
        weight, bias = layer.out_proj.weight, layer.out_proj.bias
        y = F.linear(y, weight.to(x.dtype), None if bias is None else bias.to(x.dtype)).to(u.dtype)
        return (y, u.new_empty(0)) if isinstance(layer, StateSpaceLayer) else y


def channelwise(
    model: nn.Module, states: int, calibration: Iterable[Batch], *, tolerance: float = 0.0
) -> nn.Module:
    """A copy of ``model`` whose Mamba layers keep ``states`` balanced states in every channel.

    Args:
        model: Any model with Mamba layers that can be balanced; others stay as they are.
        states: Size of every channel, at most.
        calibration: Batches over which ``Δ``, ``B`` and ``C`` are averaged, as for
            :func:`compressm.compress`: pairs ``(inputs, targets)``, inputs alone, or dicts.
        tolerance: Share of the sum of a channel's Hankel singular values that may go: with it each channel
            has a rank of its own, as published.

    Returns:
        The copy, in evaluation mode and to be evaluated only.

    Raises:
        ValueError: If there is no such layer, no calibration batch, a layer has fewer states, or the
            tolerance is outside ``[0, 1)``.
    """
    model = copy.deepcopy(model).eval()
    layers = [found for found in find_layers(model) if isinstance(found.adapter, MambaAdapter)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no Mamba layer without norms over its states")
    for found in layers:
        if not 1 <= states <= found.state_dim:
            raise ValueError(f"layer {found.name!r}: states is {states}; take 1 to {found.state_dim}")
    inputs = _recorded(model, layers, calibration)
    for found, recorded in zip(layers, inputs, strict=True):
        smaller = ChannelwiseMamba(found.module, *channel_bases(found.module, recorded, states, tolerance))
        if found.module is model:
            return smaller.eval()
        parent, _, name = found.name.rpartition(".")
        setattr(model.get_submodule(parent), name, smaller.eval())
    return model


@torch.no_grad()
def channel_bases(
    layer: Any, inputs: Sequence[Tensor], states: int, tolerance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """``T_r`` ``(d, N, r)`` and ``T_l`` ``(d, r, N)``, float64, from averages over ``inputs``.

    Where a channel's rank is smaller, by the tolerance or numerically, the rest is zero.
    """
    parts = [operands(layer, u)[2:] for u in inputs]
    delta, B, C = (
        torch.cat([double(part.flatten(0, 1)) for part in same]).mean(dim=0)
        for same in zip(*parts, strict=True)
    )
    log_A = -delta[:, None] * torch.exp(double(layer.A_log))
    into, out = (delta[:, None] * B).to(torch.complex128), C.expand_as(log_A).to(torch.complex128)
    balancings = balance_channels(log_A.to(torch.complex128), into, out, "complex")
    pairs = [_padded(balancing, states, tolerance) for balancing in balancings]
    return torch.stack([right for right, _ in pairs]), torch.stack([left for _, left in pairs])


def _padded(balancing: Balancing, states: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Real bases of one channel, filled up with zeros."""
    wanted = energy_rank(balancing.hankel_singular_values, tolerance)
    right, left = balancing.bases(min(states, balancing.rank, wanted))
    # All numbers are real; a balanced state of a complex system may still come with a phase.
    phase = right.gather(0, right.abs().argmax(dim=0, keepdim=True)).sgn()
    right, left = (right / phase).real, (left * phase.mT).real
    fill = states - right.shape[1]
    return F.pad(right, (0, fill)), F.pad(left, (0, 0, 0, fill))


def _recorded(
    model: nn.Module, layers: Sequence[CompressibleLayer], calibration: Iterable[Batch]
) -> list[Sequence[Tensor]]:
    """Inputs of the layers on all calibration batches."""
    recorder = SignalRecorder(
        layers, ["inputs"] * len(layers), batches=None, sequences=None, only_in_training=False
    )
    batches = list(calibration)
    if not batches:
        raise ValueError("channelwise: calibration holds no batches")
    replay(model, recorder, batches)
    return [recorder.signals(found.name).inputs for found in layers]
