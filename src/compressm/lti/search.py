"""How many balanced states can be kept: the largest size that can be a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from compressm.lti.modes import Modes
from compressm.lti.reduction import LimitedBy


@dataclass(frozen=True)
class Request:
    """What the caller asked for: complex states after diagonalising, or Hankel singular values.

    Attributes:
        order: Largest number of complex states, or None.
        keep: Number of Hankel singular values, or None.
    """

    order: int | None
    keep: int | None

    def checked(self, states: int, values: int) -> Request:
        """Return itself, or raise if not exactly one is given, as an int and in range."""
        if (self.order is None) == (self.keep is None):
            raise TypeError("give exactly one of order (complex states) and keep (Hankel singular values)")
        if self.order is None:
            name, size, limit = "keep", self.keep, values
        else:
            name, size, limit = "order", self.order, states
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must be an int, got {size!r}")
        if not 1 <= size <= limit:
            raise ValueError(f"{name} must be in 1..{limit} for a system of {states} states, got {size}")
        return self

    def largest(self, *, real: bool) -> int:
        """The largest number of Hankel singular values that could satisfy the request."""
        if self.keep is not None:
            return self.keep
        return (self.order or 0) * (2 if real else 1)

    def __str__(self) -> str:
        return f"order {self.order}" if self.keep is None else f"{self.keep} Hankel singular values"


class Candidates(Protocol):
    """The reduced systems of every size, of which one is to be chosen."""

    @property
    def max_sensitivity(self) -> float:
        """Largest eigenvalue condition number allowed."""
        ...

    def count(self, keep: int) -> int:
        """Complex states of the reduced system that keeps so many values."""
        ...

    def modes(self, keep: int) -> Modes:
        """Its diagonal form."""
        ...


@dataclass(frozen=True)
class Found:
    """The outcome: ``size`` values kept (0: none can be), their modes, and what stood in the way."""

    size: int
    modes: Modes | None
    limited_by: LimitedBy | None
    note: str


def largest_usable(candidates: Candidates, request: Request, rank: int, *, real: bool) -> Found:
    """Go down from the largest conceivable size to the first that can be diagonalised usefully.

    Args:
        candidates: The reduced systems.
        request: What was asked for.
        rank: Numerical rank, at least 1.
        real: Whether conjugate pairs count once.
    """
    wanted = request.largest(real=real)
    limit = candidates.max_sensitivity
    size = min(wanted, rank)
    defect: LimitedBy | None = None
    while size > 0:
        if request.order is not None:
            excess = candidates.count(size) - request.order
            if excess > 0:  # real eigenvalues; a large excess is approached in half steps
                size -= max(1, excess // 2)
                continue
        modes = candidates.modes(size)
        found = modes.defect(limit)
        if found is None and (request.order is None or modes.count <= request.order):
            short = size < wanted if request.order is None else modes.count < request.order
            if defect is None and short and size == rank:
                defect = "rank"
            note = _explain(defect, rank, limit) if defect or short else ""
            reached = (
                f"{request} asked for, kept {size} Hankel singular values in {modes.count} complex states"
            )
            return Found(size, modes, defect, f"{reached}: {note}" if note else "")
        defect = found or defect
        size -= 1
    note = f"{request} asked for: no size gives a stable system, one silent state is kept"
    return Found(0, None, defect, note)


def _explain(defect: LimitedBy | None, rank: int, limit: float) -> str:
    if defect == "rank":
        return f"the numerical rank is {rank}"
    if defect == "stability":
        return "the next larger truncation is unstable (the cut goes through equal values)"
    if defect == "conditioning":
        return (
            "the next larger truncation is nearly defective (eigenvalue condition number above "
            f"{limit:.0f}), so its diagonal form would be useless in float32"
        )
    return "real eigenvalues take a state each, and no size gives exactly that number"
