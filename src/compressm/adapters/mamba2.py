"""Mamba-2: states that its groups keep, and the way back into projections and convolution."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressm.adapters.activations import by_activations
from compressm.adapters.base import Criterion, LayerBalancing, ParameterUpdate
from compressm.adapters.mamba2_structure import (
    gradients_by_states,
    recurrence,
    signals,
    sizes,
)
from compressm.adapters.matrix_state import StateEnergies, portions
from compressm.adapters.row_slices import block_rows, kept_rows, refresh_sizes
from compressm.adapters.selection import Selection, SelectionReduction
from compressm.adapters.weighting import Weighting

# Attributes in which implementations repeat sizes, by what they hold.
_STATES = ("ssm_state_size", "d_state")
_CHANNELS = ("conv_dim",)
_GROUP_STATES = ("groups_time_state_size",)


class Mamba2Adapter:
    """Selects states of Mamba-2 layers: the same for ``B`` and ``C``, in each group of heads its own.

    A head forgets by one number, so every change of basis of its states commutes with the recurrence. But
    ``B`` and ``C`` pass a convolution of each channel and SiLU after the projection, which no change of basis
    passes. Calibration sequences are taken as they are, without a mask of padding.
    """

    ssm_parameters = ("A_log", "dt_bias", "D")
    preferred_reductions = ("energy", "qr", "magnitude")
    why_not_balanced = (
        "cannot be balanced: B and C pass a convolution and SiLU after the projection, which a change of "
        "basis does not pass"
    )

    def state_dim(self, layer: Any) -> int:
        """States ``N`` of every inner channel."""
        return sizes(layer).states

    @torch.no_grad()
    def select(
        self,
        layer: Any,
        criterion: Criterion,
        weighting: Weighting,
        generator: torch.Generator | None = None,
    ) -> LayerBalancing:
        """Rank the states of every group.

        "energy" runs the layer on recorded inputs, and gradients if they are there
        (:meth:`compressm.adapters.matrix_state.StateEnergies.amplitudes`); "qr" takes ``B`` and ``C`` after
        convolution and SiLU; "magnitude" is the sum of absolute weights of the rows that make them.

        Raises:
            ValueError: If the criterion is unknown or lacks signals, or values are not finite.
        """
        size, weight = sizes(layer), layer.in_proj.weight
        if criterion == "random":
            return Selection.random(size.groups, size.states, generator)
        if criterion == "magnitude":
            rows = weight[size.first_B :][: 2 * size.groups * size.states].double().abs().sum(dim=1)
            return Selection.by_scores(rows.reshape(2, size.groups, size.states).sum(dim=0))
        if criterion == "qr":
            return by_activations(weighting.inputs, lambda u: _activations(layer, u), weight)
        if criterion != "energy":
            raise ValueError(
                f"Mamba-2 knows no criterion {criterion!r}; take energy, qr, magnitude or random"
            )
        energies = StateEnergies()
        for u, gradients in portions(weighting, "selection by 'energy'", weight):
            found = signals(layer, u)
            run = recurrence(layer, found)
            if gradients is not None:
                gradients = gradients_by_states(layer, found, run, gradients)
            energies.add(run, gradients)
        return Selection.by_scores(energies.amplitudes(size.groups))

    @torch.no_grad()
    def write_back(self, layer: Any, reduction: SelectionReduction) -> Mapping[str, ParameterUpdate]:
        """Rows of the projection and channels of the convolution; their moments go along exactly.

        Raises:
            TypeError: If the reduction is no selection of states.
        """
        if not isinstance(reduction, SelectionReduction):
            raise TypeError(
                f"Mamba-2 takes a selection of its states, not a {type(reduction).__name__}: it "
                f"{self.why_not_balanced}"
            )
        size = sizes(layer)
        wide = size.groups * size.states
        kept = block_rows(reduction.indices, size.states)
        rows = _around(kept, size.first_B, wide, size.heads)
        channels = _around(kept, size.inner, wide, 0)
        updates = {"in_proj.weight": kept_rows(layer.in_proj.weight, rows)}
        updates["conv1d.weight"] = kept_rows(layer.conv1d.weight, channels)
        if layer.in_proj.bias is not None:
            updates["in_proj.bias"] = kept_rows(layer.in_proj.bias, rows)
        if layer.conv1d.bias is not None:
            updates["conv1d.bias"] = kept_rows(layer.conv1d.bias, channels)
        if hasattr(layer, "mup_vector"):
            updates["mup_vector"] = kept_rows(layer.mup_vector, rows, dim=layer.mup_vector.dim() - 1)
        return updates

    def refresh(self, layer: Any) -> None:
        """Sizes that other implementations keep in attributes."""
        size = sizes(layer)
        channels = layer.conv1d.weight.shape[0]
        values = {
            **dict.fromkeys(_STATES, size.states),
            **dict.fromkeys(_CHANNELS, channels),
            **dict.fromkeys(_GROUP_STATES, size.groups * size.states),
        }
        for name, value in values.items():
            if name in vars(layer):
                setattr(layer, name, value)
        refresh_sizes(layer, ("in_proj", "conv1d"))


def _activations(layer: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    found = signals(layer, u)
    return found.B[:, :, :, None], found.C[:, :, :, None]


def _around(kept: Tensor, first: int, wide: int, last: int) -> Tensor:
    """All rows before the blocks of ``B`` and ``C``, the kept ones of each, and all rows after them."""
    begin, end = torch.arange(first), first + 2 * wide + torch.arange(last)
    return torch.cat((begin, first + kept, first + wide + kept, end))
