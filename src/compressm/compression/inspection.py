"""Look at a model's layers without changing them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from compressm.adapters import LayerBalancing, find_layers
from compressm.lti import Realization, energy_rank

TOLERANCES = (0.001, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True, kw_only=True)
class LayerInspection:
    """What there is to know about a layer before cutting it.

    Attributes:
        name: The layer's name in the model.
        kind: Its class.
        state_dim: States.
        hankel_singular_values: Descending, float64; of a layer that cannot be balanced without data, the
            magnitudes of its states.
        energy: Share of the sum of HSVs in the first ``k`` of them, for ``k = 1, 2, ...``; zeros if all are
            zero.
        kept: States that `EnergyRank` would keep, by tolerance.
    """

    name: str
    kind: str
    state_dim: int
    hankel_singular_values: Tensor
    energy: Tensor
    kept: dict[float, int]


def _states(balancing: LayerBalancing, keep: int, state_dim: int) -> int:
    """States after keeping ``keep`` values; a cut that would not shrink the layer is not made."""
    if keep >= len(balancing.hankel_singular_values):
        return state_dim
    return min(balancing.truncate(keep=keep).order, state_dim)


def inspect(
    model: nn.Module, *, realization: Realization = "real", tolerances: Sequence[float] = TOLERANCES
) -> list[LayerInspection]:
    """The Hankel singular values of every known layer, and what tolerances would keep.

    Args:
        model: Any model with layers that compressm knows.
        realization: The form to balance, "real" or "complex".
        tolerances: Energy tolerances to try, each in ``[0, 1)``.

    Raises:
        ValueError: If the model has no known layer, or one is unstable or not finite.
    """
    found = []
    for layer in find_layers(model):
        balancing = layer.rank_states(realization)
        values = balancing.hankel_singular_values
        total = values.sum()
        kept = {}
        for tolerance in tolerances:
            keep = energy_rank(values, tolerance)
            kept[tolerance] = _states(balancing, keep, layer.state_dim)
        found.append(
            LayerInspection(
                name=layer.name,
                kind=layer.kind,
                state_dim=layer.state_dim,
                hankel_singular_values=values,
                energy=values.cumsum(0) / total if total > 0 else values,
                kept=kept,
            )
        )
    return found
