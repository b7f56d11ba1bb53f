"""``compressm report``: figures and tables from run folders."""

from pathlib import Path

from rich.console import Console

from compressm.report import print_summary, read_runs, write_report


def report(runs: list[Path], out: Path = Path("report.html"), title: str = "compressm report") -> None:
    """Write a self-contained HTML report on one or more runs.

    Args:
        runs: Run folders, or folders that hold run folders.
        out: File to write.
        title: Its title.
    """
    console = Console()
    folders = [folder for path in runs for folder in _expand(path)]
    found = read_runs(folders)
    print_summary(found, console)
    write_report(found, out, title=title)
    console.print(f"report in {out}", highlight=False)


def _expand(path: Path) -> list[Path]:
    if (path / "config.json").is_file() or not path.is_dir():
        return [path]
    inside = sorted(folder.parent for folder in path.glob("*/config.json"))
    return inside or [path]
