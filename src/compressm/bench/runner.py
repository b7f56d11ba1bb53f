"""One call of the benchmark: what was asked for, measured, kept after every part, and shown."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from compressm.bench.cases import Case, ClassifierCase
from compressm.bench.comparison import Method, compare
from compressm.bench.contender import Settings
from compressm.bench.grid import CHUNK_GRID, FORM_GRID, RULE_GRID, chunk_choice, form_choice, rule_choice
from compressm.bench.machine import describe_machine
from compressm.bench.outcome import Outcome
from compressm.bench.scaling import AXES, axis_cases, sweep
from compressm.bench.timing import bandwidth
from compressm.scan import calibrate, compile_seconds
from compressm.scan.lti.arguments import check_form
from compressm.training import keep_freed_memory

QUICK_ROUNDS, QUICK_LONGEST, QUICK_SHAPES = 3, 1 << 13, 4


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        cases: Cases to compare; none if empty.
        settings: Who takes part, on how many threads and which device.
        rounds: Measurements of each alternative.
        memory: Whether to measure memory.
        scaling: Whether to measure along the axes.
        form: Form of the linear recurrence there.
        grid: Whether to measure choices against the best.
        calibrate: Whether to measure the cost model's constants first.
        quick: Three rounds, no memory, lengths to 2^13, a quarter of the grid.
        cpu_time: Count processor time instead of time.
    """

    cases: Sequence[Case]
    settings: Settings
    rounds: int = 9
    memory: bool = True
    scaling: bool = False
    form: str = "auto"
    grid: bool = False
    calibrate: bool = False
    quick: bool = False
    cpu_time: bool = False


class Watcher:
    """What is told how the work goes on; does nothing itself."""

    def begin(self, part: str, rounds: int) -> None:
        """A part starts, with so many rounds in all."""

    def tick(self) -> None:
        """A round of it is done."""


def run(plan: Plan, folder: Path, watcher: Watcher | None = None) -> Outcome:
    """Measure what the plan asks for; ``bench.json`` is written anew after every part.

    Raises:
        ValueError: If the device, the threads or the rounds cannot be.
        MemoryMeasurementError: If a process that measures memory fails.
    """
    check_form(plan.form)
    _check(plan)
    before = torch.get_num_threads()
    torch.set_num_threads(plan.settings.threads)
    try:
        return _run(plan, folder, watcher or Watcher())
    finally:
        torch.set_num_threads(before)


def _run(plan: Plan, folder: Path, watcher: Watcher) -> Outcome:
    keep_freed_memory()  # as training does
    settings, rounds = plan.settings, QUICK_ROUNDS if plan.quick else plan.rounds
    method = Method(
        rounds=rounds,
        memory=plan.memory and not plan.quick,
        bandwidth=bandwidth(settings.device),
        clock=time.process_time if plan.cpu_time else time.perf_counter,
    )
    outcome = Outcome(machine=describe_machine(settings), method=_describe(method, plan))

    def keep() -> None:
        outcome.method["kernel_seconds"] = compile_seconds()
        outcome.write(folder)

    if plan.calibrate:
        watcher.begin("calibration", 1)
        outcome.constants = calibrate()
        watcher.tick()
        keep()
    for case in plan.cases:
        watcher.begin(case.name, rounds)
        outcome.comparisons.append(compare(case, settings, method, watcher.tick))
        keep()
    if plan.scaling:
        _scaling(plan, method, outcome, watcher, keep)
    if plan.grid:
        _grid(plan, method, outcome, watcher, keep)
    return outcome


def _scaling(
    plan: Plan, method: Method, outcome: Outcome, watcher: Watcher, keep: Callable[[], None]
) -> None:
    longest = QUICK_LONGEST if plan.quick else None
    for axis in AXES:
        for operation, cases in axis_cases(axis, longest, form=plan.form).items():
            watcher.begin(f"{operation}, {axis}", method.rounds)
            outcome.sweeps.append(sweep(operation, axis, cases, plan.settings, method, watcher.tick))
            keep()


def _grid(plan: Plan, method: Method, outcome: Outcome, watcher: Watcher, keep: Callable[[], None]) -> None:
    forms = FORM_GRID[::QUICK_SHAPES] if plan.quick else FORM_GRID
    watcher.begin("forms of lti_scan", method.rounds * len(forms))
    for case in forms:
        outcome.forms.append(form_choice(case, plan.settings, method, watcher.tick))
    keep()
    watcher.begin("chunks", method.rounds * (len(CHUNK_GRID) + len(RULE_GRID)))
    for attention in CHUNK_GRID:
        outcome.chunks.append(chunk_choice(attention, plan.settings, method, watcher.tick))
    for rule in RULE_GRID:
        outcome.chunks.append(rule_choice(rule, plan.settings, method, watcher.tick))
    keep()


def _describe(method: Method, plan: Plan) -> dict[str, object]:
    return {
        "rounds": method.rounds,
        "times": "medians of alternatives interleaved round by round in one process, which keeps what memory "
        "it has freed, as in training",
        "ratios": "medians of the ratios within rounds",
        "clock": "processor time" if plan.cpu_time else "time",
        "memory": "rise of the peak resident size in a fresh process" if method.memory else None,
        "bytes_per_second": method.bandwidth,
        "quick": plan.quick,
    }


def with_dropout(cases: Sequence[Case], dropout: float) -> list[Case]:
    """The cases, the classifiers among them with this dropout.

    Raises:
        ValueError: If it is no probability below 1.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must be in [0, 1)")
    return [replace(case, dropout=dropout) if isinstance(case, ClassifierCase) else case for case in cases]


def _check(plan: Plan) -> None:
    device, threads = plan.settings.device, plan.settings.threads
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; choose cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', and PyTorch finds no CUDA device here: leave --device out")
    if not 1 <= threads <= (os.cpu_count() or 1):
        raise ValueError(f"threads is {threads}; this machine has {os.cpu_count()} processors")
    if plan.rounds < 1:
        raise ValueError(f"rounds is {plan.rounds}; at least 1 is needed")
    if device == "cuda" and plan.cpu_time:
        raise ValueError("processor time says nothing about a CUDA device: leave out --cpu-time")
