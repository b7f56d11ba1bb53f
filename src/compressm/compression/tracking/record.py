"""What one check of one layer found, in plain numbers."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrackRecord:
    """One layer at one check of its Hankel singular values (HSVs).

    Fields that compare with the check before are None where there is none, and fields that take the layer's
    system where only values were shown.

    Attributes:
        step: Optimiser steps taken before the check.
        layer: The layer's name in the model.
        state_dim: States of the layer; None if only values were shown.
        realization: "real" or "complex".
        hankel_singular_values: Descending.
        tracks: For each of the leading values a number that it shares with the same state at other checks of
            the run. A state that cannot be found again gets a new number.
        likeness: How surely the states were found again: its mean over the states followed, weighted by
            today's values (:mod:`compressm.compression.tracking.likeness`); 1 if nothing moved.
        distance: Upper bound of how far any value moved since the check before (Weyl), the norm of the change
            of the layer's Hankel operator.
        moved: How far any did move, between values of equal rank.
        rank_correlation: Spearman's, of the states followed, between the check before and this one.
        crossings: Pairs of states followed that changed their order since the check before.
        boundary: How many values a cut of today would keep.
        bottom: Share of the sum of values beyond the boundary.
        since: Step of the earlier check that ``drift`` and ``kept`` look back to.
        drift: Half the sum of the absolute changes of the normalised spectrum since then, in ``[0, 1]``.
        kept: Share of today's sum of values that the subspace a cut of then would have kept still holds.
        best: The same for the best subspace of that size, today's own.
    """

    step: int
    layer: str
    state_dim: int | None
    realization: str
    hankel_singular_values: tuple[float, ...]
    tracks: tuple[int, ...]
    boundary: int
    bottom: float
    likeness: float | None = None
    distance: float | None = None
    moved: float | None = None
    rank_correlation: float | None = None
    crossings: int | None = None
    since: int | None = None
    drift: float | None = None
    kept: float | None = None
    best: float | None = None

    @property
    def stability(self) -> float | None:
        """How right a cut at ``since`` would have been, seen from today, in ``[0, 1]``; None without a past.

        ``kept / best``; where only values are known ``1 - drift``.
        """
        if self.kept is not None and self.best is not None:
            return self.kept / self.best if self.best > 0 else 1.0
        return None if self.drift is None else 1.0 - self.drift

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings: a line of ``hsv.jsonl``."""
        values, tracks = list(self.hankel_singular_values), list(self.tracks)
        return {**asdict(self), "hankel_singular_values": values, "tracks": tracks}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "TrackRecord":
        """The inverse of :meth:`to_dict`."""
        values, tracks = tuple(record["hankel_singular_values"]), tuple(record["tracks"])
        return cls(**{**record, "hankel_singular_values": values, "tracks": tracks})
