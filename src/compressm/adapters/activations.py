"""States chosen by strong rank-revealing QR on what keys and queries were.

The published selection for linear attention (arXiv 2602.04852): of the key channels of a head those stay from
which the others can be told best, over keys and queries alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compressm.adapters.matrix_state import PORTION, check_recorded
from compressm.adapters.selection import SelectionReduction
from compressm.lti.rank_revealing import pivoted_qr, strong_rank_revealing_qr
from compressm.lti.search import Request

MAX_TOKENS = 5000
"""Rows of keys, and as many of queries, that enter a factorisation at most."""

_SEED = 0

KeysAndQueries = tuple[Tensor, Tensor]
"""Of one input: keys and queries, each ``(sequences, L, groups, heads of a group, N)``."""


@dataclass(frozen=True, eq=False)
class ActivationSelection:
    """States of each group, to be chosen by their activations when it is known how many stay.

    Attributes:
        factors: ``(G, m, N)``, float64: ``factors[g].T @ factors[g]`` is the second moment of the
            activations of group ``g``.
    """

    factors: Tensor

    @cached_property
    def hankel_singular_values(self) -> Tensor:
        """What pivoting leaves of one column after the other, summed over groups: ``(N,)``, descending."""
        total = torch.zeros(self.factors.shape[2], dtype=torch.float64)
        for factor in self.factors:
            sizes = pivoted_qr(factor)[0].diagonal().abs()
            # Of columns of equal length the second may come out longer by rounding.
            total[: len(sizes)] += torch.cummin(sizes, dim=0).values
        return total

    def truncate(self, order: int | None = None, *, keep: int | None = None) -> SelectionReduction:
        """Choose ``order`` states of every group, or ``keep``, which is the same here.

        Raises:
            TypeError: Unless exactly one of ``order`` and ``keep`` is given, as an int.
            ValueError: If it is out of range.
        """
        states = self.factors.shape[2]
        count = Request(order, keep).checked(states, states).largest(real=False)
        chosen = [strong_rank_revealing_qr(factor, count).columns[:count] for factor in self.factors]
        return SelectionReduction(torch.stack(chosen).sort(dim=1).values, states)


def by_activations(
    inputs: Sequence[Tensor], activations: Callable[[Tensor], KeysAndQueries], like: Tensor
) -> ActivationSelection:
    """Rank states by keys and queries at :data:`MAX_TOKENS` steps drawn by chance, always the same ones.

    Keys and queries of a group are scaled to the same root mean square: a layer stays the same when one is
    multiplied by a number and the other divided by it.

    Args:
        inputs: Recorded inputs, each ``(sequences, L, H)``.
        activations: What the layer makes of some of them.
        like: Type, at least float32, and device are this parameter's.

    Raises:
        ValueError: If there are no inputs, or values that are not finite.
    """
    check_recorded(inputs, "selection by 'qr'")
    steps = [u.shape[0] * u.shape[1] for u in inputs]
    drawn = torch.randperm(sum(steps), generator=torch.Generator().manual_seed(_SEED))[:MAX_TOKENS]
    keys: list[Tensor] = []
    queries: list[Tensor] = []
    first = 0
    for u in inputs:
        together = max(1, PORTION // u.shape[1])
        for start in range(0, len(u), together):
            part = u[start : start + together]
            count = part.shape[0] * part.shape[1]
            here = drawn[(drawn >= first) & (drawn < first + count)] - first
            first += count
            if len(here):
                k, q = activations(part.to(like.device, torch.promote_types(like.dtype, torch.float32)))
                keys.append(_rows(k, here))
                queries.append(_rows(q, here))
    stacked = [_equal_size(torch.cat(rows, dim=1)) for rows in (keys, queries)]
    rows = torch.cat(stacked, dim=1)
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("selection by 'qr': keys or queries of the layer are not finite")
    return ActivationSelection(torch.linalg.qr(rows, mode="r").R)


def _rows(x: Tensor, steps: Tensor) -> Tensor:
    """Chosen steps of ``(sequences, L, groups, heads, N)`` as ``(groups, steps * heads, N)``, float64."""
    chosen = x.flatten(0, 1)[steps.to(x.device)].to("cpu", torch.float64)
    return chosen.transpose(0, 1).flatten(1, 2)


def _equal_size(rows: Tensor) -> Tensor:
    """Rows ``(groups, m, N)`` scaled to root mean square one in every group; zero stays zero."""
    size = rows.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return rows / torch.where(size > 0, size, 1.0)
