"""Runs side by side: the same numbers as alone, all of them watched, a failure passed on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from compressm.training import ModelConfig, Progress, RunFolder, TrainConfig, train, train_all

CONFIG = TrainConfig(
    task="toy", steps=12, batch_size=8, log_every=4, model=ModelConfig(model_dim=4, state_dim=6)
)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()[:-1]]


def test_runs_in_processes_give_the_numbers_of_runs_alone(tmp_path: Path) -> None:
    jobs = [(replace(CONFIG, seed=seed), RunFolder(tmp_path / f"together{seed}")) for seed in range(3)]
    seen: list[tuple[int, Progress]] = []
    train_all(jobs, processes=2, watch=lambda index, progress: seen.append((index, progress)))
    for seed in range(3):
        train(replace(CONFIG, seed=seed), RunFolder(tmp_path / f"alone{seed}"))
        # The cores of a process differ, and with them the order of some sums inside PyTorch.
        assert losses(tmp_path / f"together{seed}") == pytest.approx(
            losses(tmp_path / f"alone{seed}"), rel=1e-4
        )
        assert [progress.step for index, progress in seen if index == seed] == [4, 8, 12]


def test_what_a_run_raises_reaches_the_caller(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not empty"):
        train_all([(CONFIG, RunFolder(tmp_path / "taken"))], processes=1)


def test_impossible_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="processes is 0 for 1 runs"):
        train_all([(CONFIG, RunFolder(tmp_path))], processes=0)
    with pytest.raises(ValueError, match="for 0 runs"):
        train_all([])
