"""How time and memory grow with length, states, channels and batch."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from compressm.bench.cases import Case, LtiCase, SelectiveCase
from compressm.bench.comparison import Method
from compressm.bench.contender import Settings
from compressm.bench.contenders import contenders_of
from compressm.bench.memory import encode, peak_memory
from compressm.bench.timing import interleave

LTI = LtiCase(name="lti_scan", batch=1, L=4096, H=64, N=256)
SELECTIVE = SelectiveCase(name="selective_scan", batch=1, L=2048, d=64, N=16)
AXES = {
    "L": tuple(2**k for k in range(8, 18)),
    "N": tuple(2**k for k in range(3, 10)),
    "H": tuple(2**k for k in range(2, 10)),
    "batch": tuple(2**k for k in range(6)),
}
"""Values of each axis; the other sizes are those of :data:`LTI` and :data:`SELECTIVE`."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One shape on an axis: seconds of forward and backward, and the peak of memory if it was measured."""

    value: int
    case: Case
    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """An operation along one axis.

    Attributes:
        operation: The function.
        axis: L, N, H or batch.
        points: In increasing order.
    """

    operation: str
    axis: str
    points: list[Point]

    def line(self) -> tuple[float, float]:
        """Offset a >= 0 and slope b of the straight line ``a + b value`` closest in relative terms."""
        return straight_line([p.value for p in self.points], [p.seconds for p in self.points])

    def over_line(self) -> list[float]:
        """Seconds of each point over the straight line's."""
        offset, slope = self.line()
        return [point.seconds / (offset + slope * point.value) for point in self.points]

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        points = [{**asdict(point), "case": encode(point.case)} for point in self.points]
        return {
            "operation": self.operation,
            "axis": self.axis,
            "points": points,
            "over_line": self.over_line(),
        }


def straight_line(values: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """The line ``a + b value`` with a >= 0 that has the smallest relative squared error."""
    x, t = np.asarray(values, float), np.asarray(seconds, float)
    offset, slope = np.linalg.lstsq(np.stack([1 / t, x / t], axis=1), np.ones_like(t), rcond=None)[0]
    if offset < 0 or len(x) == 1:
        ratio = x / t
        return 0.0, float(ratio.sum() / (ratio @ ratio))
    return float(offset), float(slope)


def axis_cases(
    axis: str, longest: int | None = None, *, form: str = "auto"
) -> dict[str, list[tuple[int, Case]]]:
    """The shapes along an axis, by operation.

    Args:
        axis: L, N, H or batch.
        longest: Leave out values of L above it.
        form: How :func:`compressm.scan.lti_scan` computes.
    """
    values = [value for value in AXES[axis] if axis != "L" or longest is None or value <= longest]
    width = {"H": "d"}.get(axis, axis)  # the selective recurrence's channels
    return {
        LTI.name: [(value, replace(LTI, form=form, **{axis: value})) for value in values],
        SELECTIVE.name: [(value, replace(SELECTIVE, **{width: value})) for value in values],
    }


def sweep(
    operation: str,
    axis: str,
    cases: Sequence[tuple[int, Case]],
    settings: Settings,
    method: Method,
    tick: Callable[[], None] | None = None,
) -> Sweep:
    """Measure the shapes of an axis in turns.

    Raises:
        MemoryMeasurementError: If a process that measures memory fails.
    """
    ours = {value: contenders_of(case, settings)[0] for value, case in cases}
    steps = {str(value): ours[value].step(case) for value, case in cases}
    seconds = interleave(steps, method.rounds, device=settings.device, clock=method.clock, tick=tick)
    points = [
        Point(
            value=value,
            case=case,
            seconds=statistics.median(seconds[str(value)]),
            peak_bytes=peak_memory(case, ours[value].name, settings) if method.memory else None,
        )
        for value, case in cases
    ]
    return Sweep(operation=operation, axis=axis, points=points)
