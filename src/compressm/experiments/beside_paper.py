"""What the paper published beside what was measured here, row by row."""

from collections.abc import Sequence

from compressm.experiments.reproduction import Published, Reproduction
from compressm.experiments.results import Record
from compressm.report import Column, Row, Table
from compressm.report.groups import deviation, mean
from compressm.report.numbers import MISSING, fixed
from compressm.report.summary import BEST, best_mean

_Key = tuple[str, float | None]


def paper_table(reproduction: Reproduction, records: Sequence[Record]) -> Table | None:
    """A row for every arm and size that was published or run; None for a table without published scores.

    The paper's means are over its best three seeds; here stand the mean of all seeds, and the mean of the
    best three for comparison. An arm whose size is a tolerance is matched by that.

    Args:
        reproduction: The table.
        records: Completed runs.
    """
    if not reproduction.published:
        return None
    runs: dict[_Key, list[Record]] = {}
    for record in sorted(records, key=lambda record: record["seed"]):
        runs.setdefault((record["arm"], record["size"]), []).append(record)
    matched: set[int] = set()
    rows = []
    for arm in reproduction.plain["arms"]:
        keys = sorted((key for key in runs if key[0] == arm), key=lambda key: -_states(runs[key]))
        for key in keys:
            found = [
                index for index, score in enumerate(reproduction.published) if _matches(score, key, runs[key])
            ]
            matched.update(found)
            paper = reproduction.published[found[0]].value if found else None
            rows.append(_row(arm, _states(runs[key]), paper, runs[key]))
    for index, score in enumerate(reproduction.published):
        if index not in matched:
            rows.append(_row(score.arm, score.states, score.value, []))
    columns = (
        Column("method", align="left", key=True),
        Column("states", key=True),
        Column("paper", "%"),
        Column("mean", "%", group="here"),
        Column("± sd", group="here"),
        Column(BEST, "%", group="here"),
        Column("each seed", align="left", group="here"),
    )
    steps = sorted({record["config"]["steps"] for record in records})
    notes = (
        "The paper's scores are means of its best three seeds, of models and trainings of the size that "
        f"--budget paper names; here: {' and '.join(f'{count:,}' for count in steps) or 'no'} steps.",
        f"Source: {reproduction.source}.",
    )
    return Table(columns, tuple(rows), notes)


def _matches(score: Published, key: _Key, records: Sequence[Record]) -> bool:
    arm, size = key
    if arm == "tau":
        return score.tolerance is not None and score.tolerance == size
    return score.arm == arm and score.states == _states(records)


def _states(records: Sequence[Record]) -> float:
    """Final states of a layer, over all layers and runs."""
    sizes: list[int] = [size for record in records for size in record["summary"]["states"]]
    return sum(sizes) / len(sizes)


def _row(arm: str, states: float, paper: float | None, records: Sequence[Record]) -> Row:
    scores = [100 * record["test"]["accuracy"] for record in records]
    return Row(
        (
            arm,
            f"{states:,.4g}",
            fixed(paper, 1),
            fixed(mean(scores), 2),
            fixed(deviation(scores), 2),
            fixed(best_mean(scores), 2),
            " ".join(fixed(score, 2) for score in scores) or MISSING,
        )
    )
