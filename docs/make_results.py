"""The results page, from the committed results alone: no figure in it is typed by hand.

python docs/make_results.py [--results experiments/results] [--out docs/results.md]

Folders with a results.jsonl of the comparison runner (`compressm experiment`, `compressm reproduce`) become
tables here; of the others, which scripts in experiments/ made, table and figures are taken as they are.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from results_picture import draw_overview
from results_reading import ROOT, Comparison, by_every_measure, read_comparison
from results_standings import told_standings

from compressm.experiments.beside_paper import paper_table
from compressm.experiments.reproduction import read_reproduction
from compressm.experiments.results import Record
from compressm.report import Column, Row, Run, Table, to_markdown
from compressm.report.groups import Group, deviation, group_runs, mean
from compressm.report.numbers import MISSING, fixed

INTRO = """# Results

Made by `python docs/make_results.py` from `experiments/results`; every figure comes from a file there, and
each section names the command that made it. Every seed is shown; means are over all seeds, never the best.
The test set is scored once, at the end of a run.

*full* is the model at its first size. *default* is cut in the first tenth of training, with the settings that
measured best. *published* is the published method (complex balancing by the layer's own Gramians).
*scratch* is the same small size from the start.
"""

SEEN = """Mean test scores by final states beside full size, the dashed line. What *default* gains over
*scratch* is what training large first was worth.
"""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "experiments" / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    given = parser.parse_args()
    comparisons, others = read_all(given.results)
    picture = given.out.with_suffix(".png")
    draw_overview(by_every_measure(comparisons), picture)
    given.out.write_text(make_page(comparisons, others, picture), encoding="utf-8")


def read_all(results: Path) -> tuple[list[Comparison], list[Path]]:
    """The comparisons in a folder of results, and the folders of scripts."""
    comparisons, others = [], []
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        found = read_comparison(folder)
        if found is not None:
            comparisons.append(found)
        elif (folder / "table.md").is_file():
            others.append(folder)
    return comparisons, others


def make_page(comparisons: Sequence[Comparison], others: Sequence[Path], picture: Path) -> str:
    """The whole page; ``picture`` lies beside it."""
    page_folder = picture.parent
    measured = by_every_measure(comparisons)
    parts = [
        INTRO,
        "## In short\n",
        SEEN,
        *pictures([picture], page_folder),
        to_markdown(overview(measured)),
    ]
    parts += ["## Where it does not help\n", told_standings(measured)]
    parts += ["## Every comparison\n"]
    parts += [section(comparison, page_folder) for comparison in comparisons]
    parts += [script_section(folder, page_folder) for folder in others]
    return "\n".join(parts)


def overview(comparisons: Sequence[Comparison]) -> Table:
    """A row for every size at which the default was run: beside published, scratch and full size."""
    rows = []
    for comparison in comparisons:
        metric = comparison.metric
        for family in comparison.families():
            for size in comparison.sizes(f"{family}default"):
                arms = ("default", "published", "scratch")
                found = {arm: comparison.scores(family + arm, size) for arm in arms}
                full = comparison.scores(f"{family}full", None)
                default, scratch = found["default"], found["scratch"]
                lead = None if default is None or scratch is None else default.mean - scratch.mean
                told = [MISSING if scores is None else scores.told(metric) for scores in found.values()]
                told.append(MISSING if full is None else full.told(metric))
                title = f"{comparison.title}{f' ({family[:-1]})' if family else ''}"
                gap = MISSING if lead is None else f"{lead:+.{metric.decimals}f}"
                unit = metric.name + (f", {metric.unit}" if metric.unit else "")
                rows.append(Row((title, unit, f"{size:g}", *told, gap)))
    headings = ("test", "states", "default", "published", "scratch", "full", "default minus scratch")
    columns = (Column("comparison", align="left"), *(Column(title) for title in headings))
    return Table(columns, tuple(rows), ("Mean ± standard deviation over the seeds.",))


def section(comparison: Comparison, page_folder: Path) -> str:
    """Title, command, table, the paper's rows if there are any, figures."""
    lines = [f"### {comparison.title}\n"]
    if comparison.command:
        lines.append(f"`{comparison.command}`\n")
    lines.append(machine(comparison.records) + "\n")
    lines.append(to_markdown(table(comparison)))
    if comparison.table is not None:
        beside = paper_table(read_reproduction(comparison.table), comparison.records)
        if beside is not None:
            lines += ["Beside the paper:\n", to_markdown(beside)]
    return "\n".join([*lines, *pictures(comparison.figures, page_folder)])


def table(comparison: Comparison) -> Table:
    """All arms: scores of every seed, times."""
    metric, groups = comparison.metric, group_runs(comparison.runs)

    def row(group: Group) -> Row:
        values = group.values(lambda run: metric.of(run.test))
        before, after = group.mean(_before), group.mean(lambda run: run.step_seconds_final)
        total = group.mean(lambda run: run.total_seconds)
        cells = (
            group.label,
            group.states_label,
            fixed(mean(values), metric.decimals),
            fixed(deviation(values), metric.decimals),
            " ".join(fixed(value, metric.decimals) for value in values) or MISSING,
            fixed(group.mean(lambda run: run.test_rollout), 3),
            MISSING if before is None else fixed(1 / before, 1),
            MISSING if after is None else fixed(1 / after, 1),
            MISSING if total is None else fixed(total / 60, 1),
        )
        return Row(cells)

    columns = (
        Column("arm", align="left"),
        Column("states"),
        Column(f"test {metric.name}", metric.unit),
        Column("± sd"),
        Column("each seed", align="left"),
        Column("roll-out error"),
        Column("steps a second before the cuts"),
        Column("after"),
        Column("whole run", "min"),
    )
    return Table(columns, tuple(row(group) for group in groups)).without_empty_columns(MISSING)


def _before(run: Run) -> float | None:
    return run.step_seconds_before


def machine(records: Sequence[Record]) -> str:
    """What the runs ran on, and how long: times depend on it."""
    places = {
        r["machine"].get("gpu")
        or f"{r['machine']['processor']}, {r['threads']} thread{'s' if r['threads'] > 1 else ''} a run"
        for r in records
    }
    steps = sorted({r["config"]["steps"] for r in records})
    versions = sorted({f"compressm {r['version']}, torch {r['torch']}" for r in records})
    told = " and ".join(f"{count:,}" for count in steps)
    return f"{len(records)} runs, {told} steps; {'; '.join(sorted(places))}; {'; '.join(versions)}."


def script_section(folder: Path, page_folder: Path) -> str:
    """Table and figures that a script wrote."""
    lines = [f"### {folder.name}\n"]
    script = ROOT / "experiments" / f"{folder.name.split('-')[0]}.py"
    if script.is_file():
        doc = script.read_text(encoding="utf-8").removeprefix('"""').partition('"""')[0].strip()
        what, _, rest = doc.partition("\n\n")
        command = rest.partition("\n\n")[0].strip().replace("\n", " ")
        lines = [f"### {what.rstrip('.')}\n", f"`{' '.join(command.split())}`\n"]
    lines.append((folder / "table.md").read_text(encoding="utf-8"))
    return "\n".join([*lines, *pictures(sorted(folder.glob("*.png")), page_folder)])


def pictures(figures: Sequence[Path], page_folder: Path) -> list[str]:
    """Links to figures, relative to the page."""
    return [
        f"![{figure.parent.name}: {figure.stem}]({Path(os.path.relpath(figure, page_folder)).as_posix()})\n"
        for figure in figures
    ]


if __name__ == "__main__":
    main()
