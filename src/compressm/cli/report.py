"""``compressm report``: figures and tables from run folders."""

from pathlib import Path

from rich.console import Console

from compressm.report import print_summary, read_runs, write_report


def report(runs: list[Path], out: Path = Path("report.html"), title: str | None = None) -> None:
    """Write a self-contained HTML report on one or more runs.

    Args:
        runs: Run folders, or folders that hold run folders.
        out: File to write.
        title: Its title; made from the task if not given.
    """
    console = Console()
    found = read_runs(runs)
    print_summary(found, console)
    write_report(found, out, title=title)
    console.print(f"report in {out}", highlight=False)
