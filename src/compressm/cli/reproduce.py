"""``compressm reproduce``: the paper's tables and ours, each with one command."""

import os
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from compressm.cli.experiment import ExperimentDisplay
from compressm.experiments import (
    Reproduction,
    read_reproduction,
    reproduction_names,
    run_experiment,
    write_reproduction,
)
from compressm.experiments.reproduced import reproduction_records, reproduction_tables
from compressm.experiments.reproduction import BUDGETS, BudgetName
from compressm.experiments.runner import RESULTS
from compressm.report import to_rich

LIST = "list"
_TABLES = (
    f"Which: {', '.join(reproduction_names())}; or {LIST}, which says what each is and how long it takes."
)


def reproduce(
    table: Annotated[str, tyro.conf.arg(help=_TABLES)],
    budget: BudgetName = "quick",
    data_dir: Path | None = None,
    seeds: tuple[int, ...] | None = None,
    processes: int = os.cpu_count() or 1,
    threads: int = 1,
    out: Path | None = None,
    steps: int | None = None,
    show: bool = False,
) -> None:
    """Train what a table or figure of the paper compares, or one of our own tables, and write it.

    Writes the paper's rows beside ours (paper.md), all arms (table.md), their costs (costs.md), the same as
    LaTeX, and figures; results.jsonl has a line for every run. The same command goes on after a stop.

    Args:
        table: Which.
        budget: quick: minutes on two cores; small: what our committed results were made with; paper: the
            paper's models and steps, for a cluster.
        data_dir: Folder with the tasks' data files; fetched from the hub if not given and needed.
        seeds: Seeds in place of the budget's.
        processes: Runs at once.
        threads: Threads of each run.
        out: Folder to write; runs/reproduce/TABLE-BUDGET if not given.
        steps: Optimiser steps of every run at most, to see the whole path; the scores then mean nothing.
        show: Only write tables and figures of the results that are there.
    """
    console = Console()
    if table == LIST:
        _describe(console)
        return
    reproduction = read_reproduction(table)
    experiment = reproduction.experiment(budget, seeds=seeds, steps=steps)
    out = out or Path("runs") / "reproduce" / f"{table}-{budget}"
    failures = []
    if not show:
        console.print(_plan(reproduction, budget), highlight=False, markup=False)
        with ExperimentDisplay(console) as display:
            failures = run_experiment(
                experiment, out, data_dir=data_dir, processes=processes, threads=threads, watch=display
            )
    for failure in failures:
        console.print(f"{failure['cell']} failed: {failure['error']}", markup=False, highlight=False)
    records = reproduction_records(experiment, out)
    for made in reproduction_tables(reproduction, records).values():
        console.print(to_rich(made, compact=True))
        for note in made.notes:
            console.print(note, style="dim", markup=False, highlight=False)
    for path in write_reproduction(reproduction, experiment, out):
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    if failures:
        console.print(
            f"{len(failures)} failed; the same command tries them again. Tracebacks are in {out / RESULTS}",
            highlight=False,
        )
        raise SystemExit(1)


def _plan(reproduction: Reproduction, budget: BudgetName) -> str:
    minutes = reproduction.minutes(budget)
    took = f"{minutes:,.0f} minutes" if minutes < 300 else f"{minutes / 60:,.0f} hours"
    data = f" Data: {reproduction.data}." if reproduction.data else ""
    return f"{reproduction.title}, budget {budget}: about {took} on two quiet cores.{data}"


def _describe(console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("table", no_wrap=True)
    table.add_column("what it compares")
    for budget in BUDGETS:
        table.add_column(f"{budget}", justify="right", no_wrap=True)
    for name in reproduction_names():
        found = read_reproduction(name)
        data = f" [dim]({found.data})[/]" if found.data else ""
        minutes = [f"{found.minutes(budget):,.0f}" for budget in BUDGETS]
        table.add_row(name, f"{found.title}: {found.about}{data}", *minutes)
    table.caption = "Columns on the right: estimated minutes on two quiet cores, by --budget."
    console.print(table)
