"""``compressm experiment``: a whole comparison from one file."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from compressm.cli.progress import Display
from compressm.cli.scores import describe_score
from compressm.experiments import Cell, outcome_runs, read_experiment, run_experiment, write_outcome
from compressm.experiments.results import Record, Results
from compressm.experiments.runner import RESULTS
from compressm.report import print_summary
from compressm.training import Progress


def experiment(
    file: Path,
    out: Path | None = None,
    data_dir: Path | None = None,
    processes: int = 1,
    threads: int = 1,
    keep_models: bool = False,
    table: bool = False,
) -> None:
    """Train every arm of an experiment file at every size with every seed, and compare them.

    Results go to results.jsonl, a line per run; a table and a figure beside it. The same command goes on
    after a stop: completed runs are skipped, half-done ones resume. The exit code is 1 if a run failed.

    Args:
        file: Experiment file, TOML or JSON.
        out: Folder to write; runs/NAME for a file NAME.toml if not given.
        data_dir: Folder with the tasks' data files; fetched from the hub if not given and needed.
        processes: Runs at once.
        threads: Threads of each run.
        keep_models: Keep the trained models.
        table: Only print the table of the results that are there.
    """
    console = Console()
    settings = read_experiment(file)
    out = out or Path("runs") / file.stem
    failures: list[Record] = []
    if not table:
        with ExperimentDisplay(console) as display:
            failures = run_experiment(
                settings,
                out,
                data_dir=data_dir,
                processes=processes,
                threads=threads,
                keep_models=keep_models,
                watch=display,
            )
    if table:
        print_summary(outcome_runs(out), console)
        for failure in Results(out / RESULTS).failed().values():
            console.print(f"{failure['cell']} failed: {failure['error']}", markup=False, highlight=False)
        return
    if Results(out / RESULTS).done():
        print_summary(outcome_runs(out), console)
        for path in write_outcome(out):
            console.print(f"wrote {path}", highlight=False)
    for failure in failures:
        console.print(f"{failure['cell']} failed: {failure['error']}", markup=False, highlight=False)
    if failures:
        console.print(
            f"{len(failures)} failed; the same command tries them again. Tracebacks are in {out / RESULTS}",
            highlight=False,
        )
        raise SystemExit(1)


class ExperimentDisplay(Display):
    """A bar for all cells and one for each that runs, on a terminal; a line for each that ended anywhere.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, names=24, facts=24)
        self._all: TaskID | None = None
        self._running: dict[str, TaskID] = {}
        self._ended = self._count = 0

    def planned(self, cells: Sequence[Cell], done: int) -> None:
        """Show the bar for all cells."""
        self._count, self._ended = len(cells), done
        self._all = self._bars.add_task("all runs", total=len(cells), completed=done, facts="")
        if done:
            self._bars.console.print(f"{done} of {len(cells)} runs are done already", highlight=False)

    def started(self, cell: Cell) -> None:
        """Add the cell's bar."""
        self._running[cell.hash] = self._bars.add_task(cell.name, total=cell.config.steps, facts="starting")

    def progressed(self, cell: Cell, progress: Progress) -> None:
        """Move the cell's bar."""
        facts = f"loss {progress.loss:.3f}  {'+'.join(map(str, progress.states))} states"
        self._bars.update(self._running[cell.hash], completed=progress.step, facts=facts)

    def ended(self, cell: Cell, record: Record) -> None:
        """Replace the cell's bar by a line."""
        self._bars.remove_task(self._running.pop(cell.hash))
        self._ended += 1
        if self._all is not None:
            self._bars.update(self._all, completed=self._ended)
        head = f"{self._ended} of {self._count}: {cell.name}"
        if record["status"] == "failed":
            self._bars.console.print(f"{head} failed: {record['error']}", markup=False, highlight=False)
            return
        sizes, test = "+".join(map(str, record["summary"]["states"])), record["test"]
        metric = test.get("metric") or "accuracy"
        told = describe_score(test["loss"], {metric: test.get("value", test["accuracy"])}, metric)
        seconds = record["summary"]["total_seconds"]
        self._bars.console.print(
            f"{head}: test {told}, {sizes} states, {seconds:.0f} s",
            markup=False,
            highlight=False,
        )
