"""One total of states for all layers of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from compressm.compression.ranks import RankRule, Sizes, Spectrum, Target
from compressm.lti import energy_rank

By = Literal["energy", "score", "loss"]
_BISECTIONS = 60


@dataclass(frozen=True)
class GlobalBudget(Sizes, RankRule):
    """The layers together end with ``total`` states; who keeps how many is decided by their spectra.

    The total of attempt ``j`` of ``c`` lies on the geometric path of :class:`FixedRank`.

    Args:
        total: States of all layers together after the last attempt.
        by: "energy": every layer loses the same share of its sum of HSVs, found by bisection (as in work on
            Hankel regularisation). "score": a value's score is its square over the sum of squares down to it
            in its layer, and one threshold holds for all layers (as LAST does with scores of modes). "loss":
            the squares themselves are compared across layers; with ``reduction="gradients"``, which it needs,
            they predict by how much the loss changes to first order.
        multiple_of: See :class:`Sizes`, also for ``minimum`` and ``maximum``. Rounding may exceed the total.

    Raises:
        ValueError: If the total is below 1 or ``by`` is unknown.
    """

    total: int
    by: By = "energy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.total < 1:
            raise ValueError(f"GlobalBudget: total is {self.total}; it must be at least 1")
        if self.by not in get_args(By):
            raise ValueError(f"GlobalBudget: by is {self.by!r}; choose one of {', '.join(get_args(By))}")

    def check(self, state_dims: dict[str, int]) -> None:
        """Refuse a total that is more than there is, or less than one state for each layer."""
        least = len(state_dims) * self.minimum
        if not least <= self.total <= sum(state_dims.values()):
            raise ValueError(
                f"GlobalBudget: total is {self.total}; for these {len(state_dims)} layers it must be in "
                f"{least}..{sum(state_dims.values())}"
            )

    def targets(self, spectra: Sequence[Spectrum], attempt: int, attempts: int) -> list[Target]:
        """Sizes whose sum is at most the total of this attempt."""
        initial = sum(s.initial_state_dim for s in spectra)
        total = max(round(initial * (self.total / initial) ** (attempt / attempts)), len(spectra))
        if self.by == "energy":
            orders = _by_energy(spectra, total)
        else:
            orders = _by_threshold([self._scores(s) for s in spectra], spectra, total)
        return [self.fitted(s, Target(order=order)) for s, order in zip(spectra, orders, strict=True)]

    def _scores(self, spectrum: Spectrum) -> Tensor:
        """A score for each state, descending."""
        if self.by == "loss" and spectrum.reduction != "gradients":
            raise ValueError(
                f"GlobalBudget: by='loss' needs Hankel singular values that know the loss; layer "
                f"{spectrum.name!r} was ranked by {spectrum.reduction!r}: take reduction='gradients'"
            )
        squares = spectrum.hankel_singular_values.square()
        # A state is as good as the values it carries: in real form two of them.
        states = squares.reshape(spectrum.state_dim, -1).sum(1)
        if self.by == "loss":
            return states
        total = states.cumsum(0)
        return torch.where(total > 0, states / total, torch.zeros_like(states))


def _by_energy(spectra: Sequence[Spectrum], total: int) -> list[int]:
    def orders(tolerance: float) -> list[int]:
        return [s.states(energy_rank(s.hankel_singular_values, tolerance)) for s in spectra]

    low, high = 0.0, 1.0 - 1e-12
    if sum(orders(low)) <= total:
        return orders(low)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if sum(orders(middle)) > total else (low, middle)
    return orders(high)


def _by_threshold(scores: Sequence[Tensor], spectra: Sequence[Spectrum], total: int) -> list[int]:
    """Every layer's first state, then the best scores of all layers together."""
    rest = [(float(score), layer) for layer, values in enumerate(scores) for score in values[1:]]
    orders = [1] * len(spectra)
    for _, layer in sorted(rest, key=lambda pair: -pair[0])[: total - len(spectra)]:
        orders[layer] += 1
    return orders
