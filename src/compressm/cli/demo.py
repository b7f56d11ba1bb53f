"""``compressm demo``: full size, CompreSSM, and small from scratch, side by side in minutes."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from compressm.cli.progress import RunDisplay
from compressm.report import print_summary, read_runs, write_report
from compressm.training import CompressionConfig, ModelConfig, RunFolder, TrainConfig, train_all

FULL_STATES = 256


def demo(
    out: Path = Path("runs/demo"), steps: int = 1800, seeds: int = 2, rank: int = 8, batch_size: int = 50
) -> None:
    """Train three arms on a subset of sequential MNIST with the same budget, and compare them.

    Full size (256 states), CompreSSM (256 states cut down in the first 10 % of training) and the same final
    size from scratch. As many runs at once as there are cores. Writes a run folder for each and report.html
    beside them.

    Args:
        out: Folder to write.
        steps: Optimiser steps of every run.
        seeds: Runs of every arm.
        rank: States at the end of the small arms.
        batch_size: Sequences a step.
    """
    console = Console()
    if seeds < 1:
        raise ValueError(f"--seeds is {seeds}; each arm needs at least 1 run")
    base = TrainConfig(
        task="smnist-mini",
        steps=steps,
        batch_size=batch_size,
        validate_every=max(steps // 4, 1),
        checkpoint_every=steps,
        model=ModelConfig(state_dim=FULL_STATES),
    )
    arms = {
        "full": base,
        "compressm": replace(base, compression=CompressionConfig(rank=rank)),
        "scratch": replace(base, model=ModelConfig(state_dim=rank)),
    }
    folders = {(arm, seed): RunFolder(out / f"{arm}-seed{seed}") for seed in range(seeds) for arm in arms}
    for folder in folders.values():
        folder.check_new()
    jobs = [(replace(arms[arm], arm=arm, seed=seed), folder) for (arm, seed), folder in folders.items()]
    with RunDisplay(console) as display:
        watchers = [display.watch(f"{arm}, seed {seed}", steps) for arm, seed in folders]
        train_all(jobs, watch=lambda index, progress: watchers[index](progress))
    runs = read_runs([folder.path for folder in folders.values()])
    print_summary(runs, console)
    write_report(runs, out / "report.html", title="compressm demo: sequential MNIST")
    console.print(f"report in {out / 'report.html'}", highlight=False)
