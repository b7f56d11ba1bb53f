"""Hankel singular values followed through training: do the small ones stay small?

In-training reduction rests on that: what is cut early would have stayed unimportant (CompreSSM, arXiv
2510.02823, section 3, where values are followed by linear assignment and bounded by Weyl's theorem). Three
questions are asked at every check. How far did the values move, and how far could they have? Did the states
keep their order? And would the subspace that a cut of an earlier check would have kept still be the right
one?

The second takes states that can be recognised; see :mod:`compressm.compression.tracking.likeness`. The third
takes the coordinates of the modes: a mode goes on under its own index while it trains, so the functionals
``T_l`` and directions ``T_r`` of the earlier check still mean something, with today's eigenvalues, as they
would if the rest of the layer had been cut away then and these had trained on.

A check costs one balancing of each layer, which a cut at the same step can share, and up to three quarters of
that more: 0.3 seconds of processor time for an LRU of 256 states and 8 channels, about 1 for 384 and 512,
cubically less for smaller layers. Every 2 % of the steps is a good interval.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressm.compression.tracking.assignment import best_pairs, crossings, rank_correlation
from compressm.compression.tracking.change import change_bound, hankel_distance
from compressm.compression.tracking.likeness import likeness
from compressm.compression.tracking.observed import Observed, balancing_of, balancing_state, share, values_of
from compressm.compression.tracking.record import TrackRecord
from compressm.compression.tracking.subspace import Reference
from compressm.lti import Balancing, DiagonalSystem, Realization, balance, energy_rank

# A partner with less in common than this is another state.
LEAST_LIKENESS = 0.1


class HSVTracker:
    """Follows the Hankel singular values of every layer from check to check.

    Args:
        realization: Form in which systems are balanced.
        tolerance: A cut of today is taken to discard this share of the sum of values (the paper's tau) ...
        states: ... unless the number of states it leaves is given here.
        window: How many checks back ``kept`` and ``drift`` look; before there are as many at the layer's
            present size they are None.
        followed: How many of the leading values are followed as states.
        exact: Give the Hankel norm itself as the distance, not its Hilbert-Schmidt upper bound. A check then
            costs about five times as much.

    Attributes:
        records: All checks so far, in order; each layer has a record of its own.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        *,
        realization: Realization = "real",
        tolerance: float = 0.02,
        states: int | None = None,
        window: int = 5,
        followed: int = 128,
        exact: bool = False,
    ) -> None:
        if not 0 <= tolerance < 1:
            raise ValueError(f"HSVTracker: tolerance is {tolerance}; it must be in [0, 1)")
        for name, value in (("states", states), ("window", window), ("followed", followed)):
            if value is not None and value < 1:
                raise ValueError(f"HSVTracker: {name} is {value}; it must be at least 1")
        self.realization: Realization = realization
        self.tolerance, self.states = tolerance, states
        self.window, self.followed, self.exact = window, followed, exact
        self.records: list[TrackRecord] = []
        self._latest: dict[str, tuple[TrackRecord, Balancing | None]] = {}
        self._references: dict[str, list[Reference]] = {}
        self._tracks = 0

    def observe(self, step: int, layers: Mapping[str, Observed]) -> list[TrackRecord]:
        """Check every layer.

        Args:
            step: Optimiser steps taken; more than at the check before.
            layers: By name the layer's system, or its balancing where there is one already; of layers that
                are more than one system a balancing of another kind, or singular values alone, descending.
                In a balancing with other Gramians than the system's own (weighted by data, say) everything
                is measured with those, but for the distance, which then is None.

        Returns:
            A record for each layer.

        Raises:
            ValueError: If the step does not follow, no layer is given, or, naming the layer, if its values
                are not finite and descending. Nothing is remembered then.
        """
        if self.records and step <= self.records[-1].step:
            raise ValueError(f"HSVTracker: step {step} does not follow the check at {self.records[-1].step}")
        if not layers:
            raise ValueError("HSVTracker: no layer to observe")
        before, checks = self._tracks, []
        for name, observed in layers.items():
            try:
                checks.append(self._check(step, name, observed))
            except ValueError as error:
                self._tracks = before
                raise ValueError(f"layer {name!r}: {error}") from error
        for record, balancing, reference in checks:
            self._latest[record.layer] = (record, balancing)
            kept = [r for r in self._references.get(record.layer, []) if r.fits(reference.values)]
            self._references[record.layer] = [*kept, reference][-self.window :]
        records = [record for record, _, _ in checks]
        self.records.extend(records)
        return records

    def settled(self, threshold: float = 0.95) -> bool:
        """Whether a cut ``window`` checks ago would have been right, seen from the latest check.

        True if every layer's :attr:`TrackRecord.stability` over that time is at least ``threshold``. A cut,
        which changes the size, starts the count of checks anew.
        """
        return bool(self._latest) and all(
            record.stability is not None and record.stability >= threshold
            for record, _ in self._latest.values()
        )

    def state_dict(self) -> dict[str, Any]:
        """All that later checks need, and the records, in tensors, numbers, strings and lists."""
        return {
            "records": [record.to_dict() for record in self.records],
            "balancings": {name: balancing_state(balancing) for name, (_, balancing) in self._latest.items()},
            "references": {
                name: [reference.state_dict() for reference in references]
                for name, references in self._references.items()
            },
            "tracks": self._tracks,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: If the state lacks an entry.
        """
        missing = {"records", "balancings", "references", "tracks"} - state.keys()
        if missing:
            raise ValueError(f"the tracker's state lacks {', '.join(sorted(missing))}")
        self.records = [TrackRecord.from_dict(record) for record in state["records"]]
        self._references = {
            name: [Reference.from_state_dict(reference) for reference in references]
            for name, references in state["references"].items()
        }
        self._tracks = state["tracks"]
        newest = {record.layer: record for record in self.records}
        self._latest = {
            name: (newest[name], balancing_of(plain)) for name, plain in state["balancings"].items()
        }

    def _check(
        self, step: int, name: str, observed: Observed
    ) -> tuple[TrackRecord, Balancing | None, Reference]:
        if isinstance(observed, DiagonalSystem):
            observed = balance(observed, self.realization)
        balancing = observed if isinstance(observed, Balancing) else None
        values = values_of(observed)
        boundary = self._boundary(values)
        record = TrackRecord(
            step=step,
            layer=name,
            state_dim=None if balancing is None else balancing.system.state_dim,
            realization=self.realization if balancing is None else balancing.realization,
            hankel_singular_values=tuple(values.tolist()),
            boundary=boundary,
            bottom=share(values[boundary:], values),
            **self._since_last(name, values, balancing),
            **self._since_reference(name, values, balancing),
        )
        return record, balancing, Reference.of(step, values, boundary, balancing)

    def _boundary(self, values: Tensor) -> int:
        if self.states is None:
            return energy_rank(values, self.tolerance)
        return min(len(values), self.states * (2 if self.realization == "real" else 1))

    def _since_last(self, name: str, values: Tensor, balancing: Balancing | None) -> dict[str, Any]:
        record, before = self._latest.get(name, (None, None))
        if record is None:
            count = min(self.followed, len(values))
            return {"tracks": self._fresh(count)}
        longest = max(len(values), len(record.hankel_singular_values))
        old, new = (torch.zeros(longest, dtype=torch.float64) for _ in range(2))
        old[: len(record.hankel_singular_values)] = torch.tensor(record.hankel_singular_values)
        new[: len(values)] = values
        moved = float((new - old).abs().max())
        alike = None if balancing is None or before is None else likeness(before, balancing, self.followed)
        if balancing is None or before is None or alike is None:
            kept = min(self.followed, len(values), len(record.tracks))
            more = min(self.followed, len(values)) - kept
            return {"moved": moved, "tracks": (*record.tracks[:kept], *self._fresh(more))}
        tracks, surely = self._follow(record.tracks, alike, values)
        return {
            "moved": moved,
            "distance": self._distance(before, balancing),
            "tracks": tracks,
            "likeness": surely,
            "rank_correlation": rank_correlation(record.tracks, tracks),
            "crossings": crossings(record.tracks, tracks),
        }

    def _distance(self, old: Balancing, new: Balancing) -> float | None:
        if not (old.guaranteed and new.guaranteed):
            return None  # weighted values are not those of the layer's own Hankel operator
        if self.exact:
            return hankel_distance(old.system, new.system, new.realization)
        return change_bound(old, new)

    def _follow(
        self, tracks: tuple[int, ...], alike: Tensor, values: Tensor
    ) -> tuple[tuple[int, ...], float | None]:
        """Numbers for today's states, and how surely they were recognised."""
        matrix = alike[: len(tracks)].numpy()
        partner = {new: old for old, new in best_pairs(matrix, least=LEAST_LIKENESS)}
        count = matrix.shape[1]
        names = tuple(tracks[partner[j]] if j in partner else self._fresh(1)[0] for j in range(count))
        shared = sum(float(values[j]) * float(matrix[i, j]) for j, i in partner.items())
        weight = float(values[:count].sum())
        return names, shared / weight if weight > 0 else None

    def _since_reference(self, name: str, values: Tensor, balancing: Balancing | None) -> dict[str, Any]:
        fitting = [r for r in self._references.get(name, []) if r.fits(values)]
        if len(fitting) < self.window:
            return {}
        reference = fitting[0]
        found = {"since": reference.step, "drift": reference.drift(values)}
        shares = None if balancing is None else reference.kept(balancing)
        return found if shares is None else {**found, "kept": shares[0], "best": shares[1]}

    def _fresh(self, count: int) -> tuple[int, ...]:
        self._tracks += count
        return tuple(range(self._tracks - count, self._tracks))
