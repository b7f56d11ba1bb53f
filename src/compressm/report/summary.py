"""The tables of a report: results by arm and size, and the cuts of one run."""

from collections.abc import Callable, Sequence

from .groups import Group, deviation, group_runs, mean
from .headline import leading_group
from .metric import Metric, metric_of
from .numbers import MISSING, column, duration_unit, fixed, plural, scaled, step_unit
from .runs import Run
from .table import Column, Row, Table

STEP_GROUP = "step time"
RUN_GROUP = "run time"
BEST = "top 3"


def summary_table(runs: Sequence[Run]) -> Table:
    """Compare the arms: one row per arm and final size, means over all seeds.

    Standard deviations are sample deviations (n - 1), given from two seeds on; the mean of the best three
    seeds, which some papers report, from four on. Columns that no run
    can fill (floors, cut times) are left out. The leading row, that of the headline, is strong.

    Raises:
        ValueError: no run is given.
    """
    groups = group_runs(runs)
    if not groups:
        raise ValueError("no runs to summarise; read at least one with read_run")
    metric = metric_of(runs)
    leader = leading_group(groups, metric)
    described = [
        (Column("arm", align="left", key=True), [group.label for group in groups]),
        (Column("task", align="left", key=True), _tasks(groups)),
        (Column("states", key=True), [group.states_label for group in groups]),
        (Column("parameters"), [fixed(group.mean(lambda run: run.parameters), 0) for group in groups]),
        *_score_columns(groups, metric),
        *_step_columns(groups),
        *_total_columns(groups),
    ]
    columns = tuple(heading for heading, _ in described)
    cells = zip(*(texts for _, texts in described), strict=True)
    rows = tuple(Row(tuple(row), group is leader) for row, group in zip(cells, groups, strict=True))
    return Table(columns, rows, _notes(groups)).without_empty_columns(MISSING)


def best_mean(values: Sequence[float], *, higher_is_better: bool = True, count: int = 3) -> float | None:
    """The mean of the best ``count`` seeds, as some papers report; None where there are no more seeds.

    It stands above the mean of all, which is what counts: for comparison with such papers alone.
    """
    if len(values) <= count:
        return None
    return mean(sorted(values, reverse=higher_is_better)[:count])


def cuts_table(run: Run) -> Table:
    """List every attempt of one run, layer by layer, with guarantee and actual error.

    Both errors are H-infinity norms of the difference between the layer before and after. A layer
    that an attempt left alone shows its size without an arrow.
    """
    found = [(cut, layer) for cut in run.cuts for layer in cut.layers]
    bounds = [layer.error_bound if layer.new != layer.old else None for _, layer in found]
    errors = [layer.error if layer.new != layer.old else None for _, layer in found]
    seconds = column([cut.seconds for cut in run.cuts])
    rows = []
    for (cut, layer), bound, error in zip(found, column(bounds), column(errors), strict=True):
        first = layer is cut.layers[0]
        change = f"{layer.old:,} → {layer.new:,}" if layer.new != layer.old else f"{layer.old:,} (kept)"
        time = seconds[run.cuts.index(cut)] if first else ""
        rows.append(Row((f"{cut.step:,}" if first else "", layer.name, change, bound, error, time)))
    columns = (
        Column("step"),
        Column("layer", align="left"),
        Column("states"),
        Column("guaranteed error bound"),
        Column("actual error"),
        Column("time", "s"),
    )
    notes = tuple(f"Step {cut.step:,}, {layer.name}: {layer.note}" for cut, layer in found if layer.note)
    return Table(columns, tuple(rows), notes).without_empty_columns(MISSING)


def _tasks(groups: Sequence[Group]) -> list[str]:
    several = len({group.task for group in groups}) > 1
    return [group.task if several else MISSING for group in groups]


def _score_columns(groups: Sequence[Group], metric: Metric) -> list[tuple[Column, list[str]]]:
    every = [group.values(lambda run: metric.of(run.test)) for group in groups]
    means = [group.mean(lambda run: metric.of(run.test)) for group in groups]
    spreads = [deviation(values) for values in every]
    seeds = [" ".join(fixed(value, metric.decimals) for value in values) or MISSING for values in every]
    best = [
        fixed(best_mean(values, higher_is_better=metric.higher_is_better), metric.decimals)
        for values in every
    ]
    test = f"test {metric.name}"
    return [
        (Column("mean", metric.unit, group=test), [fixed(value, metric.decimals) for value in means]),
        (Column("± sd", group=test), [fixed(value, metric.decimals) for value in spreads]),
        (Column(BEST, metric.unit, group=test), best),
        (Column("each seed", align="left", group=test), seeds),
        *_loss_column(groups, metric),
        (
            Column("test roll-out error"),
            [fixed(group.mean(lambda run: run.test_rollout), 3) for group in groups],
        ),
    ]


def _loss_column(groups: Sequence[Group], metric: Metric) -> list[tuple[Column, list[str]]]:
    """The loss itself, where another figure than accuracy or loss is compared: the field tells both."""
    if metric.key in ("accuracy", "loss"):
        return []
    return [(Column("test loss"), [fixed(group.mean(lambda run: run.test_loss), 4) for group in groups])]


def _step_columns(groups: Sequence[Group]) -> list[tuple[Column, list[str]]]:
    sources: list[tuple[str, Callable[[Run], float | None]]] = [
        ("before", lambda run: run.step_seconds_before),
        ("floor before", lambda run: run.floor_before),
        ("after", lambda run: run.step_seconds_final),
        ("floor after", lambda run: run.floor_final),
    ]
    values = [[group.mean(source) for group in groups] for _, source in sources]
    factor, unit = step_unit([value for found in values for value in found])
    # One precision for all four, so that times and floors compare at a glance.
    texts = column([value for found in values for value in scaled(found, factor)], significant=2)
    count = len(groups)
    columns = [
        (Column(title, unit, group=STEP_GROUP), texts[i * count : (i + 1) * count])
        for i, (title, _) in enumerate(sources)
    ]
    speedups = [group.mean(lambda run: run.speedup) for group in groups]
    ratios = [MISSING if ratio is None else f"{fixed(ratio, 2)}×" for ratio in speedups]
    return [*columns, (Column("speed-up", group=STEP_GROUP), ratios)]


def _total_columns(groups: Sequence[Group]) -> list[tuple[Column, list[str]]]:
    totals = [group.mean(lambda run: run.total_seconds) for group in groups]
    training = [group.mean(lambda run: run.training_seconds) for group in groups]
    cuts = [group.mean(lambda run: run.cut_seconds) for group in groups]
    factor, unit = duration_unit(totals)
    return [
        (Column("training", unit, group=RUN_GROUP), [fixed(value, 1) for value in scaled(training, factor)]),
        (Column("total", unit, group=RUN_GROUP), [fixed(value, 1) for value in scaled(totals, factor)]),
        (Column("cuts", "s", group=RUN_GROUP), [fixed(value, 2) for value in cuts]),
    ]


def _notes(groups: Sequence[Group]) -> tuple[str, ...]:
    """Say what is missing, run by run."""
    notes = []
    for group in groups:
        for run in group.runs:
            notes += [f"{run.name} ({run.folder.name}): {note}." for note in run.notes]
        tested = len(group.values(lambda run: run.test.step if run.test is not None else None))
        if 0 < tested < len(group.runs):
            notes.append(f"{group.label}: the mean is over {plural(tested, 'seed')} of {len(group.runs)}.")
    return tuple(notes)
