"""The grid: every arm at every size with every seed, each a complete training configuration."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressm.data import get_task
from compressm.experiments.overrides import at_path, merged
from compressm.experiments.settings import Arm, Experiment, Size
from compressm.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of an experiment.

    Attributes:
        arm: Name of its arm.
        size: Its size, None in an arm without sizes.
        config: All settings of the run, the seed among them.
    """

    arm: str
    size: Size | None
    config: TrainConfig

    @property
    def name(self) -> str:
        """The cell in one word, such as ``compressm-8-seed0``."""
        size = "" if self.size is None else f"-{self.size:g}"
        return f"{self.arm}{size}-seed{self.config.seed}"

    @property
    def hash(self) -> str:
        """A fingerprint of all settings but the place of the data: equal settings, equal fingerprint.

        Settings at their defaults do not enter, so that a setting which did not exist when a run was made
        leaves its fingerprint as it was.
        """
        defaults = TrainConfig(task=self.config.task).to_dict()
        settings = _differences(self.config.to_dict() | {"data_dir": None}, defaults)
        text = json.dumps(_canonical({"task": self.config.task, **settings}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Name of its run folder; other settings under the same name get another."""
        return f"{self.name}-{self.hash[:8]}"


def make_cells(experiment: Experiment, data_dir: Path | None = None) -> list[Cell]:
    """All cells, complete and checked, in order of seeds: early results then compare all arms.

    Args:
        experiment: What to run.
        data_dir: Folder with the data files, in place of the one in the file.

    Raises:
        ValueError: Naming the arm and size, if its settings do not go together.
    """
    return [
        _cell(experiment, arm, size, seed, data_dir)
        for seed in experiment.seeds
        for arm in experiment.arms
        for size in (arm.sizes if arm.size is not None else (None,))
    ]


def _differences(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What of ``settings`` is not as in ``defaults``, table by table."""
    found = {}
    for key, value in settings.items():
        default = defaults[key]
        if isinstance(value, dict) and isinstance(default, dict):
            value, default = _differences(value, default), {}
        if value != default:
            found[key] = value
    return found


def _canonical(value: Any) -> Any:
    """Settings in which 1 and 1.0, which files write for the same number, are the same."""
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _cell(experiment: Experiment, arm: Arm, size: Size | None, seed: int, data_dir: Path | None) -> Cell:
    sized = {} if arm.size is None else at_path(arm.size, size)
    plain = merged(experiment.base, arm.settings, sized, {"arm": arm.name, "seed": seed})
    try:
        config = TrainConfig.from_dict(plain)
        get_task(config.task)
    except ValueError as error:
        at = "" if size is None else f" at size {size:g}"
        raise ValueError(f"arm {arm.name!r}{at}: {error}") from error
    if data_dir is not None:
        config = replace(config, data_dir=data_dir)
    return Cell(arm=arm.name, size=size, config=config)
