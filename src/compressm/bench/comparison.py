"""Measure the contenders of a case in turns, beside the floor."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from compressm.bench.cases import Case
from compressm.bench.contender import Contender, DisagreementError, Settings, check_agreement
from compressm.bench.contenders import contenders_of
from compressm.bench.memory import encode, peak_memory
from compressm.bench.timing import Step, interleave, median_ratio
from compressm.bench.work import products_alone, work
from compressm.training.device import matrix_precision

FLOOR = "matrix products alone"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One contender's figures in one case.

    Attributes:
        name: The contender.
        seconds: Of a step, median over the rounds.
        ratio: Its time over ours, median over the rounds.
        tokens_per_second: Inputs of a step over its seconds.
        of_products: Share of its time that the matrix products alone take, median over the rounds.
        of_bytes: Share of its time that moving the least bytes takes.
        compile_seconds: Compiling before the first step, or loading what was compiled before.
        peak_bytes: Rise of the resident memory at its peak; None if it was not measured.
        difference: Largest relative difference from our outputs and gradients; None for ours and bfloat16.
        rounds: Seconds of a step in each round.
    """

    name: str
    seconds: float
    ratio: float
    tokens_per_second: float
    of_products: float | None
    of_bytes: float
    compile_seconds: float
    peak_bytes: int | None
    difference: float | None
    rounds: list[float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A case and what was measured.

    Attributes:
        case: The shape.
        gigaflop: Of its matrix products, forward and backward.
        bytes: The least a step must move.
        product_seconds: Of its matrix products alone, median; None where the case has none.
        measured: Ours first. Empty if ours could not run.
        absent: Who could not take part, or computes something else, and why.
    """

    case: Case
    gigaflop: float
    bytes: int
    product_seconds: float | None
    measured: list[Measured] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self), "case": encode(self.case)}


@dataclass(frozen=True, kw_only=True)
class Method:
    """How to measure.

    Attributes:
        rounds: Measurements of each alternative.
        memory: Whether to measure memory, in a process for each contender.
        bandwidth: Bytes per second of this machine's memory.
        clock: What to read.
    """

    rounds: int
    memory: bool
    bandwidth: float
    clock: Callable[[], float]


def compare(
    case: Case, settings: Settings, method: Method, tick: Callable[[], None] | None = None
) -> Comparison:
    """Check that all compute the same, then measure.

    Args:
        case: The shape.
        settings: Who takes part, on how many threads and which device.
        method: How to measure.
        tick: Called after every round.

    A contender that computes something else is not timed: it is among the absent, with the reason.

    Raises:
        MemoryMeasurementError: If a process that measures memory fails.
    """
    needed = work(case)
    everyone = contenders_of(case, settings)
    absent = {one.name: reason for one in everyone if (reason := one.missing()) is not None}
    present = [one for one in everyone if one.name not in absent]
    if everyone[0].name in absent:
        present = []
    result = Comparison(
        case=case, gigaflop=needed.flop / 1e9, bytes=needed.bytes, product_seconds=None, absent=absent
    )
    if not present:
        return result
    for one in present:
        one.load(case)
    differences = _differences(case, present, absent)
    present = [one for one in present if one.name not in absent]
    seconds = _time(case, present, settings, method, tick)
    return Comparison(
        case=case,
        gigaflop=result.gigaflop,
        bytes=needed.bytes,
        product_seconds=statistics.median(seconds[FLOOR]) if needed.products else None,
        absent=absent,
        measured=[
            Measured(
                name=one.name,
                seconds=statistics.median(seconds[one.name]),
                ratio=median_ratio(seconds[one.name], seconds[present[0].name]),
                tokens_per_second=case.tokens / statistics.median(seconds[one.name]),
                of_products=median_ratio(seconds[FLOOR], seconds[one.name]) if needed.products else None,
                of_bytes=needed.bytes / method.bandwidth / statistics.median(seconds[one.name]),
                compile_seconds=one.compile_seconds,
                peak_bytes=peak_memory(case, one.name, settings) if method.memory else None,
                difference=differences.get(one.name),
                rounds=seconds[one.name],
            )
            for one in present
        ],
    )


def _differences(case: Case, present: Sequence[Contender[Any]], absent: dict[str, str]) -> dict[str, float]:
    """How far each is from ours; who is too far is put among the absent, with the reason."""
    differences = {}
    for one in present[1:]:
        if one.exact:
            try:
                differences[one.name] = check_agreement(present[0], one, case)
            except DisagreementError as error:
                absent[one.name] = f"refused: {error}"
    return differences


def _time(
    case: Case,
    present: Sequence[Contender[Any]],
    settings: Settings,
    method: Method,
    tick: Callable[[], None] | None,
) -> dict[str, list[float]]:
    # Recorded and compiled steps keep the precision that they were made with.
    with matrix_precision("tf32" if settings.tf32 else "float32"):
        steps: dict[str, Step] = {one.name: one.step(case) for one in present}
        if work(case).products:
            steps[FLOOR] = products_alone(work(case), settings.device)
        return interleave(steps, method.rounds, device=settings.device, clock=method.clock, tick=tick)
