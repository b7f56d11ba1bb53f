"""How early the order of a layer's states settles: three measures of a check against the end of training.

CompreSSM cuts early because the ranking of the Hankel singular values is said to settle early (arXiv
2510.02823, section 3). Three measures of that, which share no step:

* *tracks*: balanced states, recognised from check to check
  (:class:`compressm.compression.tracking.HSVTracker`), and the order they have;
* *modes*: each mode keeps its index while a layer trains, so no state has to be recognised; it is ranked by
  its part in the values (:func:`mode_participation`);
* *cuts*: no order at all, but what the subspace that a cut of then would have kept holds at the end, as a
  share of the sum of values, beside the most that as many states can hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compressm.compression.tracking import TrackRecord
from compressm.compression.tracking.assignment import rank_correlation, shared_order
from compressm.compression.tracking.subspace import Reference
from compressm.lti import Balancing


def mode_participation(balancing: Balancing) -> Tensor:
    """The part of each mode in the Hankel singular values, ``(N,)`` float64.

    The participation factor of mode ``j`` in balanced state ``i`` is ``|T_l,ij T_r,ji|`` (Perez-Arriaga,
    Verghese and Schweppe 1982), here divided by its sum over the modes; each state's value is shared out by
    it, so that the parts add up to the sum of the values. In real form a mode's two coordinates count
    together.
    """
    # Scaling by the root of a value cancels in the quotient, so the unscaled bases serve as well.
    factors = balancing.left.abs() * balancing.right.mT.abs()
    values = balancing.hankel_singular_values[: balancing.rank]
    parts = (values[:, None] * factors / factors.sum(dim=1, keepdim=True)).sum(dim=0)
    return parts.reshape(2, -1).sum(dim=0) if balancing.realization == "real" else parts


class Settling:
    """One layer's checks, to be judged when training is over.

    Args:
        sizes: Numbers of states of the cuts to judge.

    Raises:
        ValueError: If there are none, or one is not positive.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        if not sizes or min(sizes) < 1:
            raise ValueError(f"Settling: sizes are {list(sizes)}; give positive numbers of states")
        self.sizes = tuple(sizes)
        self._tracks: list[TrackRecord] = []
        self._modes: list[Tensor] = []
        self._references: list[dict[int, Reference]] = []
        self._latest: Balancing | None = None

    def observe(self, record: TrackRecord, balancing: Balancing) -> None:
        """Take a check: the tracker's record, and the balancing that it was made of.

        Raises:
            ValueError: If the layer has another size or form than before.
        """
        values = balancing.hankel_singular_values
        if self._latest is not None and len(values) != len(self._latest.hankel_singular_values):
            raise ValueError(
                f"layer {record.layer!r}: {len(values)} values at step {record.step}, "
                f"{len(self._latest.hankel_singular_values)} before; a layer that is cut cannot be followed"
            )
        self._tracks.append(record)
        self._modes.append(mode_participation(balancing))
        self._references.append(
            {
                size: Reference.of(record.step, values, _kept(size, balancing), balancing)
                for size in self.sizes
            }
        )
        self._latest = balancing

    def against_end(self) -> list[dict[str, Any]]:
        """For every check but the last, what it and the last one have in common; plain numbers.

        ``tracks`` and ``modes`` are Spearman's rank correlations, ``shared`` the number of states that were
        followed all the way. ``sizes`` holds for each size ``kept`` and ``best``, shares of the final sum of
        values, and the final share of what was at the bottom then, beyond that many states:
        ``bottom_tracks`` (states that were lost on the way count as bottom) and ``bottom_modes``.

        Raises:
            ValueError: With fewer than two checks.
        """
        if self._latest is None or len(self._tracks) < 2:
            raise ValueError("Settling: two checks are needed to compare one with the end")
        last, final = self._tracks[-1], self._modes[-1]
        order = _order(final)
        return [
            {
                "step": record.step,
                "tracks": rank_correlation(record.tracks, last.tracks),
                "shared": len(shared_order(record.tracks, last.tracks)),
                "modes": rank_correlation(_order(modes), order),
                "sizes": {
                    str(size): self._cut(size, record, modes, references[size], self._latest)
                    for size in self.sizes
                },
            }
            for record, modes, references in zip(
                self._tracks[:-1], self._modes[:-1], self._references[:-1], strict=True
            )
        ]

    def _cut(
        self, size: int, record: TrackRecord, modes: Tensor, reference: Reference, latest: Balancing
    ) -> dict[str, float]:
        shares = reference.kept(latest)
        if shares is None:
            raise ValueError(f"layer {record.layer!r}: the check at step {record.step} has no subspace")
        last, final = self._tracks[-1], self._modes[-1]
        top = set(record.tracks[: _kept(size, latest)])
        held = sum(
            value
            for track, value in zip(last.tracks, last.hankel_singular_values, strict=False)
            if track in top
        )
        total = float(latest.hankel_singular_values.sum())
        bottom = _order(modes)[size:]
        return {
            "kept": shares[0],
            "best": shares[1],
            "bottom_tracks": 1.0 - held / total,
            "bottom_modes": float(final[bottom].sum() / final.sum()),
        }


def _kept(size: int, balancing: Balancing) -> int:
    """Singular values that a cut to ``size`` complex states keeps; a conjugate pair has two in real form."""
    return size * (2 if balancing.realization == "real" else 1)


def _order(scores: Tensor) -> list[int]:
    order: list[int] = torch.argsort(scores, descending=True, stable=True).tolist()
    return order
