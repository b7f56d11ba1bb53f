"""Balanced truncation of the key dimension where every change of basis commutes with the recurrence.

With one decay for all key channels of a head, ``S' = T S``, ``k' = T k``, ``q' = T^-T q`` is the same map for
any invertible ``T``: keys are to the state what an input matrix is, and queries an output matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compressm.adapters.matrix_state import relative
from compressm.lti.reduction import UnmeasuredReduction
from compressm.lti.search import Request

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class KeyReduction(UnmeasuredReduction):
    """New keys and queries of each head.

    Attributes:
        keys: ``(M, r, K)``: ``k' = keys @ k``.
        queries: ``(M, r, K)``: ``q' = queries @ q``. ``queries.mT @ keys`` is the projection that was made;
            rows are zero in a head that has fewer than ``r`` directions.
        note: Why there are fewer than asked for; empty otherwise.
    """

    keys: Tensor
    queries: Tensor
    note: str = ""

    @property
    def order(self) -> int:
        """Key channels of a head that are left."""
        return self.keys.shape[1]


@dataclass(frozen=True, eq=False)
class KeyBalancing:
    """Heads in balanced coordinates, to be truncated together.

    Truncation at ``r`` is the projection ``E`` of that rank which minimises ``tr(Q (I-E) P (I-E)^T)``, the
    error of what queries read from states if these were independent; it is the sum of the squares of the
    values that go (Eckart and Young 1936, applied to ``L^T R``).

    Attributes:
        controllability: Factors ``R`` of ``P = R R^T``, of keys or states: ``(M, K, m)``, float64.
        observability: Factors ``L`` of ``Q = L L^T``, of queries or adjoint states: ``(M, K, n)``, float64.
        comparable: Whether values of different heads compare. Otherwise each head's count relative to their
            root sum of squares, because a norm follows each head.
    """

    controllability: Tensor
    observability: Tensor
    comparable: bool = False

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        U, sigma, Vh = torch.linalg.svd(self.observability.mT @ self.controllability, full_matrices=False)
        return U, sigma, Vh

    @cached_property
    def values(self) -> Tensor:
        """Of each head, descending: ``(M, K)``. Those that rounding explains are zero."""
        sigma = self._svd[1]
        states = self.controllability.shape[1]
        size = self.controllability.norm(dim=(1, 2)) * self.observability.norm(dim=(1, 2))
        clean = torch.where(sigma > states * _EPS * size[:, None], sigma, 0.0)[:, :states]
        padding = states - clean.shape[1]
        return torch.nn.functional.pad(clean, (0, padding))

    @cached_property
    def hankel_singular_values(self) -> Tensor:
        """Of all heads, added up rank by rank: ``(K,)``, descending, float64."""
        return (self.values if self.comparable else relative(self.values)).sum(dim=0)

    def truncate(self, order: int | None = None, *, keep: int | None = None) -> KeyReduction:
        """Keep the leading ``order`` balanced channels of every head, or ``keep``, which is the same here.

        There are fewer if no head has so many.

        Raises:
            TypeError: Unless exactly one of ``order`` and ``keep`` is given, as an int.
            ValueError: If it is out of range.
        """
        states = self.controllability.shape[1]
        asked = Request(order, keep).checked(states, states).largest(real=False)
        ranks = (self.values > 0).sum(dim=1)
        count = max(1, min(asked, int(ranks.max())))
        note = "" if count == asked else f"order {asked} asked for: keys and queries have rank {count}"
        maps = [self._maps(head, min(count, int(rank)), count) for head, rank in enumerate(ranks)]
        keys, queries = (torch.stack(side) for side in zip(*maps, strict=True))
        return KeyReduction(keys, queries, note)

    def _maps(self, head: int, rank: int, count: int) -> tuple[Tensor, Tensor]:
        """``T_l`` and the transpose of ``T_r``, both ``(count, K)``."""
        U, sigma, Vh = (part[head] for part in self._svd)
        root = sigma[:rank].sqrt()[:, None]
        keys = (U[:, :rank].mT @ self.observability[head].mT) / root
        queries = (Vh[:rank] @ self.controllability[head].mT) / root
        if rank < count:
            # No query reads what lies beyond the rank; but a key there lets the query's gradient live.
            basis = torch.linalg.qr(keys.mT, mode="complete").Q.mT[rank:count]
            length = keys.norm(dim=1).mean() if rank else torch.ones((), dtype=keys.dtype)
            keys = torch.cat((keys, length * basis))
            queries = torch.cat((queries, torch.zeros_like(basis)))
        return keys, queries
