"""Whether a task is still being learned, seen from its loss or score."""

import math
import statistics
from itertools import pairwise
from typing import Any, Literal

Mode = Literal["min", "max"]

# An improvement counts from so many times the usual difference between neighbouring means on.
_NOISE = 5.0


class LearningCurve:
    """A metric, averaged between checks, and whether its improvement has slowed down.

    A cut keeps what the layer does at that moment, not what it has still to learn, so a cut during fast
    improvement is a cut too early (a task with a late phase transition, such as recall, ends far worse then).

    Args:
        mode: "min" for a loss, "max" for a score.
        rate: Improvement over the window, as a share of all improvement so far, at which it counts as slow.
        window: The window, in optimiser steps.
        target: Value that the metric must have reached before, None for any. Nothing in a metric tells the
            plateau before a transition from the last one; who knows the task can tell here.
    """

    def __init__(self, mode: Mode, rate: float, window: int, target: float | None) -> None:
        self._sign = 1.0 if mode == "min" else -1.0
        self._rate, self._window = rate, window
        self._target = None if target is None else self._sign * target
        self._means: list[tuple[int, float]] = []
        self._sum, self._count = 0.0, 0

    @property
    def empty(self) -> bool:
        """Whether no metric has come yet."""
        return not self._means and not self._count

    def add(self, step: int, metric: float) -> None:
        """Take the metric of a step.

        Raises:
            ValueError: If it is not finite.
        """
        if not math.isfinite(metric):
            raise ValueError(f"the metric of step {step} is {metric}; a schedule cannot learn from that")
        self._sum += self._sign * metric
        self._count += 1

    def check(self, step: int) -> bool:
        """Close the mean since the last check, and say whether the task counts as learned.

        It does if all of these hold: the improvement since the first mean stands out from the noise; the best
        mean gained at most ``rate`` of that within the last ``window`` steps; the newest mean is as near to
        the best (after a cut: the model has recovered); the target, if there is one, has been reached.
        """
        if self._count:
            self._means.append((step, self._sum / self._count))
            self._sum, self._count = 0.0, 0
        means = [mean for _, mean in self._means]
        earlier = [mean for at, mean in self._means if at <= step - self._window]
        if not earlier or len(earlier) == len(means):
            return False
        best, newest = min(means), means[-1]
        total = means[0] - best
        noise = statistics.median(abs(b - a) for a, b in pairwise(means))
        allowed = self._rate * total
        return (
            total > _NOISE * noise
            and min(earlier) - best <= allowed
            and newest - best <= allowed
            and (self._target is None or best <= self._target)
        )

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists."""
        return {"means": [list(mean) for mean in self._means], "sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self._means = [(step, mean) for step, mean in state["means"]]
        self._sum, self._count = state["sum"], state["count"]
