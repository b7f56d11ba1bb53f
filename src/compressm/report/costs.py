"""The table of costs: what a run took, and what its model takes from now on."""

from collections.abc import Callable, Sequence

from .groups import Group, group_runs
from .numbers import MISSING, column, duration_unit, fixed, scaled
from .runs import Run
from .table import Column, Row, Table

_Source = Callable[[Run], float | None]


def costs_table(runs: Sequence[Run]) -> Table:
    """Means over the seeds of each arm and size; columns that no run can fill are left out.

    Raises:
        ValueError: no run is given.
    """
    groups = group_runs(runs)
    if not groups:
        raise ValueError("no runs to summarise; read at least one with read_run")
    totals = [group.mean(lambda run: run.total_seconds) for group in groups]
    factor, unit = duration_unit(totals)
    described = [
        (Column("arm", align="left", key=True), [group.label for group in groups]),
        (Column("states", key=True), [group.states_label for group in groups]),
        (Column("whole run", unit), [fixed(value, 1) for value in scaled(totals, factor)]),
        (Column("its teacher", unit), _column(groups, _teacher, factor, 1)),
        (Column("cuts", "s"), _column(groups, lambda run: run.cut_seconds, 1, 2)),
        (Column("recompilations"), _column(groups, _recompilations, 1, 0)),
        (Column("steps a second", group="training"), [_rates(group) for group in groups]),
        (Column("GFLOP a step", group="training"), column(_means(groups, _flops, 1e-9))),
        (Column("peak memory", "MB", group="training"), _column(groups, _memory, 1e-6, 0)),
        (Column("parameters", group="model"), _column(groups, lambda run: run.parameters, 1, 0)),
        (Column("steps a second, one by one", group="model"), _column(groups, _streamed, 1, 0)),
    ]
    columns = tuple(heading for heading, _ in described)
    cells = zip(*(texts for _, texts in described), strict=True)
    notes = (
        "Steps a second: at each size in turn. GFLOP: counted from the layers' definitions, at "
        "the final size, backward as two forward passes. Peak memory: of the whole process. One by one: the "
        "step form on one sequence.",
    )
    return Table(columns, tuple(Row(tuple(row)) for row in cells), notes).without_empty_columns(MISSING)


def _rates(group: Group) -> str:
    """``18 → 37 → 50``: of the stages that all seeds of a group have; ends alone where they are many."""
    rates: list[list[float]] = []
    for run in group.runs:
        stages = run.summary.stages if run.summary is not None else ()
        seconds = [stage.step_seconds for stage in stages if stage.step_seconds]
        if not seconds:  # a run of an older version tells the first and the last
            seconds = [taken for taken in (run.step_seconds_before, run.step_seconds_final) if taken]
        rates.append([1 / taken for taken in seconds])
    if not rates or not rates[0] or len({len(found) for found in rates}) > 1:
        return MISSING
    means = [sum(found) / len(found) for found in zip(*rates, strict=True)]
    shown = means if len(means) <= 5 else [means[0], means[-1]]
    return " → ".join(fixed(rate, 1) for rate in shown)


def _means(groups: Sequence[Group], source: _Source, factor: float) -> list[float | None]:
    return scaled([group.mean(source) for group in groups], factor)


def _column(groups: Sequence[Group], source: _Source, factor: float, decimals: int) -> list[str]:
    return [fixed(value, decimals) for value in _means(groups, source, factor)]


def _teacher(run: Run) -> float | None:
    return None if run.summary is None else run.summary.teacher_seconds


def _recompilations(run: Run) -> float | None:
    # None, so that the column goes, where nothing was compiled.
    return None if run.summary is None or not run.summary.recompilations else run.summary.recompilations


def _flops(run: Run) -> float | None:
    return None if run.summary is None else run.summary.flops_per_step


def _memory(run: Run) -> float | None:
    return None if run.summary is None else run.summary.peak_memory


def _streamed(run: Run) -> float | None:
    return None if run.summary is None else run.summary.streamed_per_second
