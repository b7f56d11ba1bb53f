"""States of a layer in an order of preference: what is left when some are kept as they are.

Layers with varying dynamics rarely have a basis that their parameters can hold, but any of them can do with
fewer of its own states. States that share projections form groups (the heads of an attention layer, the
groups of Mamba-2; a Mamba layer is one group), and each group loses as many.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.lti.reduction import UnmeasuredReduction
from compressm.lti.search import Request


@dataclass(frozen=True, eq=False)
class SelectionReduction(UnmeasuredReduction):
    """The states that stay.

    Attributes:
        indices: ``(G, r)``, ascending in every group, so that keeping all changes nothing.
        states: ``N``, how many there were in a group.
        note: Why there are fewer than asked for; empty otherwise.
    """

    indices: Tensor
    states: int
    note: str = ""

    @property
    def order(self) -> int:
        """States of a group that are left."""
        return self.indices.shape[1]


@dataclass(frozen=True, eq=False)
class Selection:
    """All states of a layer, ranked in every group.

    Attributes:
        indices: ``(G, N)``: the states of each group, the ones to keep first.
        scores: ``(G, N)``, float64, descending: what the state in the same place of ``indices`` scored.
            Like Hankel singular values these are amplitudes; rules add them up.

    Raises:
        ValueError: If the shapes differ, a row of indices is no order of all states, or scores are not
            finite or not descending.
    """

    indices: Tensor
    scores: Tensor

    def __post_init__(self) -> None:
        if self.indices.dim() != 2 or self.indices.shape != self.scores.shape:
            raise ValueError(
                f"a selection takes indices and scores (groups, states), "
                f"not {tuple(self.indices.shape)} and {tuple(self.scores.shape)}"
            )
        if not torch.equal(self.indices.sort(dim=1).values, _numbers(*self.indices.shape)):
            raise ValueError(f"every group must name each of its {self.indices.shape[1]} states once")
        if not bool(torch.isfinite(self.scores).all()):
            raise ValueError("scores of states are not finite; look at the layer's signals and parameters")
        if not bool((self.scores.diff(dim=1) <= 0).all()):
            raise ValueError("scores must be descending in every group; take Selection.by_scores for others")

    @classmethod
    def by_scores(cls, scores: Tensor) -> Selection:
        """Rank states by scores ``(G, N)``, or ``(N,)`` for one group; of equal ones the first comes first.

        Raises:
            ValueError: If scores are not finite.
        """
        scores = scores.detach().to("cpu", torch.float64)
        scores = scores[None] if scores.dim() == 1 else scores
        ordered, indices = torch.sort(scores, dim=1, descending=True, stable=True)
        return cls(indices, ordered)

    @classmethod
    def random(cls, groups: int, states: int, generator: torch.Generator | None = None) -> Selection:
        """Every group in an order of its own by chance; all states score 1."""
        orders = [torch.randperm(states, generator=generator) for _ in range(groups)]
        return cls(torch.stack(orders), torch.ones(groups, states, dtype=torch.float64))

    @property
    def hankel_singular_values(self) -> Tensor:
        """Scores of the first, second, ... state, added over groups: ``(N,)``, descending, float64."""
        return self.scores.sum(dim=0)

    def truncate(self, order: int | None = None, *, keep: int | None = None) -> SelectionReduction:
        """Keep the first ``order`` states of every group, or ``keep``, which is the same here.

        Raises:
            TypeError: Unless exactly one of ``order`` and ``keep`` is given, as an int.
            ValueError: If it is out of range.
        """
        states = self.indices.shape[1]
        request = Request(order, keep).checked(states, states)
        kept = self.indices[:, : request.largest(real=False)]
        return SelectionReduction(kept.sort(dim=1).values, states)


def _numbers(groups: int, states: int) -> Tensor:
    return torch.arange(states).expand(groups, states)
