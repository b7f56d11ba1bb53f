"""``compressm train`` and ``compressm resume``."""

from pathlib import Path

from rich.console import Console

from compressm.cli.progress import RunDisplay
from compressm.cli.scores import describe_score
from compressm.data import load
from compressm.report import print_summary, read_runs, write_report
from compressm.training import RunFolder, RunResult, TrainConfig
from compressm.training import resume as resume_run
from compressm.training import train as start_run


def train(config: TrainConfig, out: Path | None = None) -> None:
    """Train a model; it shrinks on the way if --rank, --tolerance or --fraction is given.

    Args:
        config: Settings of the run.
        out: Run folder to write; runs/TASK-ARM-seedN if not given.
    """
    console = Console()
    folder = RunFolder(out or Path("runs") / f"{config.task}-{config.label}-seed{config.seed}")
    folder.check_new()
    splits = load(config.task, data_dir=config.data_dir)
    with RunDisplay(console) as display:
        result = start_run(config, folder, splits=splits, watch=display.watch(config.label, config.steps))
    _close(console, folder, result)


def resume(run: Path) -> None:
    """Go on with a run that was stopped, from its newest checkpoint.

    Args:
        run: Run folder.
    """
    console = Console()
    folder = RunFolder(run)
    config = folder.read_config()
    with RunDisplay(console) as display:
        result = resume_run(folder, watch=display.watch(config.label, config.steps))
    _close(console, folder, result)


def _close(console: Console, folder: RunFolder, result: RunResult) -> None:
    runs = read_runs([folder.path])
    print_summary(runs, console)
    report = folder.path / "report.html"
    write_report(runs, report)
    told = describe_score(result.test.loss, result.test.figures, result.test.metric.name)
    console.print(
        f"test {told} with {result.model.state_dims} states; "
        f"model in {folder.model_path}, report in {report}",
        highlight=False,
    )
