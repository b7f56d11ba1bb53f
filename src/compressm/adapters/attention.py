"""Linear attention: key channels that heads keep, and the way back into their projections."""

from collections.abc import Mapping
from typing import Any

import torch

from compressm.adapters.activations import by_activations
from compressm.adapters.attention_structure import (
    keys_and_queries,
    queries_are_linear,
    recurrence,
    sizes,
)
from compressm.adapters.base import Criterion, LayerBalancing, ParameterUpdate
from compressm.adapters.matrix_state import StateEnergies, portions
from compressm.adapters.row_slices import block_rows, kept_rows, refresh_sizes
from compressm.adapters.selection import Selection, SelectionReduction
from compressm.adapters.weighting import Weighting

_OF_KEYS = ("k_proj.weight", "k_proj.bias", "k_conv1d.weight", "k_conv1d.bias", "gk_proj.1.weight",
            "gk_proj.1.bias")  # fmt: skip
_OF_QUERIES = ("q_proj.weight", "q_proj.bias", "q_conv1d.weight", "q_conv1d.bias")


class AttentionAdapter:
    r"""Selects key channels of linear attention: in each head the same for queries and keys.

    Heads that share keys keep the same channels, and all heads of a layer equally many.

    The factor ``K^-1/2`` of the outputs becomes ``r^-1/2``. Where queries are linear in the inputs,
    ``sqrt(r/K)`` in their projection makes up for it. Where they are scaled to length one, or pass SiLU, no
    weight could: keys and queries are scaled to length one anew after the cut, and the factor stays. The
    root mean square in each head divides it out of the outputs again, together with the length that a query
    has lost; only the number that is added to the mean square weighs ``r/K`` times as much.

    Args:
        ssm_parameters: Names of parameters that form the dynamics.
        gated_keys: Whether every key channel has a gate of its own. Rank-revealing QR does not see gates, and
            on a small recall task it fell behind magnitudes (loss 2.16 against 1.31 with 12 of 16 channels
            left, where energy had 1.00 as before the cut): then it is no choice of ours.
    """

    preferred_reductions: tuple[str, ...] = ("energy", "qr", "magnitude")
    energy_needs = "inputs"
    why_not_balanced = (
        "cannot be balanced: every key channel has a gate, or a convolution and SiLU, of its own, which a "
        "change of basis does not pass"
    )

    def __init__(self, *ssm_parameters: str, gated_keys: bool = False) -> None:
        self.ssm_parameters = ssm_parameters
        if gated_keys:
            self.preferred_reductions = ("energy", "magnitude")

    def state_dim(self, layer: Any) -> int:
        """Key channels ``K`` of every head."""
        return sizes(layer).states

    @torch.no_grad()
    def select(
        self,
        layer: Any,
        criterion: Criterion,
        weighting: Weighting,
        generator: torch.Generator | None = None,
    ) -> LayerBalancing:
        """Rank the key channels of every head.

        "energy" runs the layer on recorded inputs and takes the amplitude that a channel adds to the outputs
        of its head, which is what goes with it; "qr" takes keys and queries before they are scaled to length
        one; "magnitude" is the sum of absolute weights of their projections.

        Gradients are left aside: on small recall tasks (gated attention and delta rules, 6 models, 4, 8 and
        12 of 16 channels left) the loss after a cut was lower without them in 14 of 18 cases.

        Raises:
            ValueError: If the criterion is unknown or lacks signals, or values are not finite.
        """
        size, weight = sizes(layer), layer.q_proj.weight
        if criterion == "random":
            return Selection.random(size.groups, size.states, generator)
        if criterion == "magnitude":
            rows = (layer.q_proj.weight, layer.k_proj.weight)
            sums = [
                w.double().abs().sum(dim=1).reshape(size.groups, -1, size.states).sum(dim=1) for w in rows
            ]
            return Selection.by_scores(sums[0] + sums[1])
        if criterion == "qr":
            return by_activations(weighting.inputs, lambda u: keys_and_queries(layer, u), weight)
        if criterion != "energy":
            raise ValueError(
                f"linear attention knows no criterion {criterion!r}; take energy, qr, magnitude or random"
            )
        energies = StateEnergies()
        for u, _ in portions(Weighting(inputs=weighting.inputs), "selection by 'energy'", weight):
            energies.add(recurrence(layer, u), None)
        return Selection.by_scores(energies.amplitudes(size.groups))

    @torch.no_grad()
    def write_back(self, layer: Any, reduction: Any) -> Mapping[str, ParameterUpdate]:
        """Rows of projections, channels of convolutions, gates of keys; their moments go along exactly.

        Raises:
            TypeError: If the reduction is no selection of states.
        """
        if not isinstance(reduction, SelectionReduction):
            raise TypeError(
                f"{type(layer).__name__} takes a selection of its states, not a "
                f"{type(reduction).__name__}: it {self.why_not_balanced}"
            )
        size = sizes(layer)
        kept = reduction.indices
        keys = block_rows(kept, size.states)
        queries = block_rows(kept.repeat_interleave(size.heads // size.groups, dim=0), size.states)
        factor = (reduction.order / size.states) ** 0.5 if queries_are_linear(layer) else 1.0
        updates: dict[str, ParameterUpdate] = {}
        present = dict(layer.named_parameters())
        for name in _OF_KEYS:
            if name in present:
                updates[name] = kept_rows(present[name], keys)
        for name in _OF_QUERIES:
            if name in present:
                updates[name] = kept_rows(present[name], queries, factor=factor)
        return updates

    def refresh(self, layer: Any) -> None:
        """Sizes that flash-linear-attention keeps in attributes."""
        size = sizes(layer)
        values = {
            "head_k_dim": size.states,
            "head_dim": size.states,
            "key_dim": size.heads * size.states,
            "key_dim_per_group": size.groups * size.states,
        }
        for name, value in values.items():
            if name in vars(layer):
                setattr(layer, name, value)
        linear = ("q_proj", "k_proj", "q_conv1d", "k_conv1d", "gk_proj.1")
        modules = dict(layer.named_modules())
        refresh_sizes(layer, [name for name in linear if name in modules])
