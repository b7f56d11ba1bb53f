"""A run's folder: settings, metrics and cuts written as they happen, checkpoint, final model."""

import json
import os
import pickle
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from compressm._version import __version__
from compressm.compression import Cut, TrackRecord
from compressm.training.config import TrainConfig

CONFIG, METRICS, CUTS, CHECKS, CHECKPOINT, MODEL = (
    "config.json",
    "metrics.jsonl",
    "cuts.jsonl",
    "hsv.jsonl",
    "checkpoint.pt",
    "model",
)


class RunFolder:
    """Paths and writers of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def model_path(self) -> Path:
        """Where the final model is saved."""
        return self.path / MODEL

    def check_new(self) -> None:
        """Refuse a folder that holds something.

        Raises:
            FileExistsError: Naming the folder and what to do.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FileExistsError(
                f"{self.path} is not empty; choose another --out, remove it, or go on with "
                f"'compressm resume {self.path}'"
            )

    def create(self, config: TrainConfig) -> None:
        """Make the folder and write the settings.

        Raises:
            FileExistsError: If there is something in it.
        """
        self.check_new()
        self.path.mkdir(parents=True, exist_ok=True)
        written = {
            "version": __version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "command": " ".join(["compressm", *sys.argv[1:]])
            if Path(sys.argv[0]).stem == "compressm"
            else "",
            **config.to_dict(),
            "arm": config.label,
        }
        self._replace(CONFIG, json.dumps(written, indent=2) + "\n")

    def read_config(self) -> TrainConfig:
        """The settings the run was started with.

        Raises:
            FileNotFoundError: If this is no run folder.
            ValueError: If the file is damaged or has unknown keys.
        """
        file = self.path / CONFIG
        if not file.is_file():
            raise FileNotFoundError(f"{self.path} is not a run: it has no {CONFIG}")
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is damaged: {error}") from error
        for key in ("version", "torch", "threads", "command"):
            plain.pop(key, None)
        try:
            return TrainConfig.from_dict(plain)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def write_metrics(self, **values: Any) -> None:
        """Append a line of metrics."""
        self._append(METRICS, values)

    def write_cut(self, cut: Cut) -> None:
        """Append the record of an attempt."""
        self._append(CUTS, cut.to_dict())

    def write_checks(self, checks: Iterable[TrackRecord]) -> None:
        """Append checks of the Hankel singular values."""
        for check in checks:
            self._append(CHECKS, check.to_dict())

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; there is a whole one at every moment."""
        temporary = self.path / f".{CHECKPOINT}.tmp"
        torch.save(state, temporary)
        temporary.replace(self.path / CHECKPOINT)

    def read_checkpoint(self) -> dict[str, Any]:
        """The newest checkpoint. Only tensors, numbers, lists and strings are read, no pickled code.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged.
        """
        file = self.path / CHECKPOINT
        if not file.is_file():
            raise FileNotFoundError(
                f"{self.path} has no {CHECKPOINT}: the run ended before its first one, or was completed. "
                "Start it anew in another folder"
            )
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
            raise ValueError(f"{file} is damaged ({error}); start the run anew") from error
        return state

    def rewind(self, step: int, *, cuts: bool = True) -> None:
        """Drop lines of metrics, checks and (unless told otherwise) cuts after ``step``: they come again."""
        for name in (METRICS, CHECKS, CUTS) if cuts else (METRICS, CHECKS):
            file = self.path / name
            if not file.is_file():
                continue
            kept = []
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    break  # the line that the crash cut short; nothing follows it
                if record["step"] <= step:
                    kept.append(line + "\n")
            self._replace(name, "".join(kept))

    def finish(self) -> None:
        """Remove the checkpoint of a completed run: its model is saved."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def _append(self, name: str, record: dict[str, Any]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _replace(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / name)
