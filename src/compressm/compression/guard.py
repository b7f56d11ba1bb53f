"""The safety net: a cut that hurts is taken back, and tried again less deeply."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from compressm.compression.ranks import RankRule, Spectrum, Target

Mode = Literal["max", "min"]


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """Take back a cut after which the metric does not recover (the paper's pragmatic variant, done right).

    Before every cut the compressor keeps a copy of everything (:mod:`compressm.compression.snapshot`).
    ``patience`` optimiser steps later it compares the metric with the one before the cut, for every cut
    including the last. If it is worse by more than ``tolerance``, model, optimiser, stateful objects and
    random numbers are put back, and the cut is tried again with half of the states to remove, ``retries``
    times; then the attempt is given up.

    Give ``compressor.step(metric)`` the metric as often as you have it (a training loss every step, or a
    validation score where ``compressor.wants_metric``); the mean of the last ``window`` values counts.

    Args:
        tolerance: How much worse the metric may be, in its own unit.
        mode: Whether a good metric is large ("max") or small ("min").
        patience: Optimiser steps for recovery.
        window: Values of the metric to average.
        retries: Gentler cuts to try before giving up.

    Raises:
        ValueError: If an argument is out of range.
    """

    tolerance: float = 0.02
    mode: Mode = "max"
    patience: int = 100
    window: int = 1
    retries: int = 2

    def __post_init__(self) -> None:
        if not (self.tolerance >= 0 and math.isfinite(self.tolerance)):
            raise ValueError(f"Rollback: tolerance is {self.tolerance}; it must be a number of at least 0")
        if self.mode not in get_args(Mode):
            raise ValueError(f"Rollback: mode is {self.mode!r}; choose 'max' or 'min'")
        for name, least in (("patience", 1), ("window", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"Rollback: {name} is {getattr(self, name)}; it must be at least {least}")

    def allows(self, before: float, after: float) -> bool:
        """Whether the metric after a cut is good enough; a metric that is not a number never is."""
        loss = before - after if self.mode == "max" else after - before
        return loss <= self.tolerance


class Gentler(RankRule):
    """Sizes between those before a cut that was undone and those it had tried.

    Args:
        tried: States of each layer before and after that cut.
        share: Share of the states which it removed that may be removed now; with 0 every layer stays.
    """

    def __init__(self, tried: Mapping[str, tuple[int, int]], share: float) -> None:
        self._orders = {name: old - int(share * (old - new)) for name, (old, new) in tried.items()}

    def targets(self, spectra: Sequence[Spectrum], attempt: int, attempts: int) -> list[Target]:
        """The sizes between."""
        del attempt, attempts
        return [Target(order=self._orders[spectrum.name]) for spectrum in spectra]


class Watch:
    """The guard at work: the metric's latest values, and the cut that waits for its verdict.

    Args:
        guard: Its settings.
    """

    def __init__(self, guard: Rollback) -> None:
        self.guard = guard
        self._values: deque[float] = deque(maxlen=guard.window)
        self.pending: dict[str, Any] | None = None

    def observe(self, metric: float | None) -> None:
        """Take note of a value of the metric."""
        if metric is not None:
            self._values.append(float(metric))

    def mean(self, when: str) -> float:
        """Mean of the latest values.

        Raises:
            RuntimeError: If there are none.
        """
        if not self._values:
            raise RuntimeError(
                f"the guard has no metric to compare {when}: call compressor.step(metric=...), at least "
                "where compressor.wants_metric is true"
            )
        return sum(self._values) / len(self._values)

    def begin(
        self, *, step: int, attempt: int, retry: int, before: float, snapshot: Mapping[str, Any]
    ) -> None:
        """A cut was made at ``step``; ``snapshot`` is from before it. Values from before it count no more."""
        self.pending = {
            "step": step,
            "attempt": attempt,
            "retry": retry,
            "before": before,
            "snapshot": snapshot,
        }
        self._values.clear()

    def due(self, step: int) -> bool:
        """Whether the verdict on the pending cut falls at ``step``."""
        return self.pending is not None and step >= self.pending["step"] + self.guard.patience

    def state_dict(self) -> dict[str, Any]:
        """The latest values and the pending cut with its snapshot."""
        return {"values": list(self._values), "pending": self.pending}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self._values.clear()
        self._values.extend(state["values"])
        self.pending = state["pending"]
