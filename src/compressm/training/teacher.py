"""The full-size model that a run learns from, trained before it and kept for the next run."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from compressm.saving import load
from compressm.training.compression_config import CompressionConfig
from compressm.training.config import TrainConfig
from compressm.training.rival_config import DistillationConfig, RegularizationConfig
from compressm.training.run_folder import CHECKPOINT, CONFIG, METRICS, RunFolder

TEACHER = "teacher"


class Teacher(NamedTuple):
    """A trained teacher.

    Attributes:
        model: The model.
        seconds: Wall-clock seconds that its own training took.
    """

    model: nn.Module
    seconds: float


def teacher_config(config: TrainConfig) -> TrainConfig:
    """The teacher's settings: those of the run at full size, without cuts and without a teacher.

    Raises:
        ValueError: If the run has no teacher.
    """
    states = config.distillation.teacher_states
    if states is None:
        raise ValueError("teacher_config: distillation.teacher_states is not set, so there is no teacher")
    return replace(
        config,
        arm=TEACHER,
        model=replace(config.model, state_dim=states),
        compression=CompressionConfig(),
        distillation=DistillationConfig(),
        regularization=RegularizationConfig(),
    )


def find_teacher(
    config: TrainConfig,
    folder: Path,
    train: Callable[[TrainConfig, RunFolder], object],
    resume: Callable[[RunFolder], object],
) -> Teacher:
    """The teacher in ``folder``, trained there or to its end if need be.

    Args:
        config: Settings of the run that learns.
        folder: The teacher's run folder.
        train: Starts a run.
        resume: Goes on with one.

    Raises:
        ValueError: If the folder holds a run with other settings.
    """
    wanted, run = teacher_config(config), RunFolder(folder)
    if (folder / CHECKPOINT).is_file():
        resume(run)
    elif not run.model_path.exists():
        if (folder / CONFIG).is_file():
            shutil.rmtree(folder)  # a run that was left before its first checkpoint: begun anew
        train(wanted, run)
    found = run.read_config()
    if replace(found, data_dir=wanted.data_dir) != wanted:
        raise ValueError(f"{folder} holds a teacher with other settings; remove it, or choose another --out")
    return Teacher(load(run.model_path).eval(), _seconds(folder / METRICS))


def _seconds(metrics: Path) -> float:
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return float(next(line["total_seconds"] for line in lines if line["kind"] == "summary"))
