"""Floating-point operations of a model, counted from its definition."""

from functools import singledispatch

from torch import nn

from compressm.layers import S4D, DeltaNet, GatedDeltaNet, LinearAttentionLayer, Mamba, Mamba2, ModalLayer
from compressm.layers.conv import CausalConv1d
from compressm.models import LanguageModel, PairClassifier, SequenceRegressor
from compressm.training.objectives import Model

TRAINING = 3
"""A training step in forward passes: the backward pass makes two products for each of the forward pass."""


def flops_per_sequence(model: Model, length: int) -> int:
    """Operations of a forward pass over one sequence of ``length`` steps (for pairs: two sequences).

    A multiply-add is two, a complex one eight. Counted are matrix products, convolutions and recurrences as
    the layers' definitions have them, whatever form they run in; norms, activations, gates and exponentials
    are left out.
    """
    if isinstance(model, LanguageModel):
        return length * (_linear(model.layers) + 2 * model.embeddings.weight.numel())
    sequences = 2 if isinstance(model, PairClassifier) else 1
    body = _linear(model.encoder) + _linear(model.blocks)
    heads = _linear(model) - body
    # A head that follows the mean over time is used once.
    heads *= length if isinstance(model, SequenceRegressor) else 1
    return sequences * length * body + heads


@singledispatch
def recurrence_flops(module: nn.Module) -> int:
    """Operations a time step of what a layer does besides the linear maps and convolutions inside it."""
    del module
    return 0


@recurrence_flops.register
def _(layer: ModalLayer) -> int:
    """``B u``, ``x = λ x + B u`` and ``Re(C x)``: real inputs, complex states; twice if both directions."""
    directions = 2 if layer.bidirectional else 1
    channels = layer.input_dim
    return directions * layer.state_dim * (4 * channels + 8 + 4 * channels) + 2 * channels


@recurrence_flops.register
def _(layer: S4D) -> int:
    """The same for every channel on its own, with the states that it still has."""
    return 16 * int(layer.channel_states.sum()) + 2 * layer.input_dim


@recurrence_flops.register
def _(layer: Mamba) -> int:
    """``Δ A``, ``Δ x B``, ``h = a h + b`` and ``C h``, real."""
    return layer.inner_dim * (6 * layer.state_dim + 2)


@recurrence_flops.register
def _(layer: Mamba2) -> int:
    """A decay, an outer product and a read of every head's matrix, real."""
    return layer.inner_dim * (5 * layer.state_dim + 2)


@recurrence_flops.register
def _(layer: LinearAttentionLayer) -> int:
    """The same."""
    return 5 * layer.num_heads * layer.state_dim * layer.value_dim


@recurrence_flops.register
def _(layer: DeltaNet) -> int:
    """A read at the key, the correction there, and a read at the query; with a gate a decay more."""
    decay = 1 if isinstance(layer, GatedDeltaNet) else 0
    return (6 + decay) * layer.num_heads * layer.state_dim * layer.value_dim


def _linear(part: nn.Module) -> int:
    """Operations a step of all linear maps, convolutions and recurrences inside a part."""
    weights = sum(
        module.weight.numel()
        for module in part.modules()
        if isinstance(module, nn.Linear | nn.Conv1d | CausalConv1d)
    )
    return 2 * weights + sum(recurrence_flops(module) for module in part.modules())
