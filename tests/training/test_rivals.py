"""Rivals as settings of a run: a teacher, a pressure on Hankel norms, scores from elsewhere."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import compressm
from compressm.data import load
from compressm.rivals import AireStates, HankelRegularizer, LastStates
from compressm.training import (
    CompressionConfig,
    DistillationConfig,
    ModelConfig,
    RegularizationConfig,
    RunFolder,
    TrainConfig,
    find_objective,
    resume,
    train,
)
from compressm.training.losses import TrainingLoss
from compressm.training.teacher import teacher_config

SMALL = TrainConfig(
    task="toy",
    seed=3,
    steps=12,
    batch_size=8,
    log_every=3,
    checkpoint_every=6,
    model=ModelConfig(model_dim=4, state_dim=6),
)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder) if line["kind"] != "summary"]


def test_losses_are_those_of_the_formulas() -> None:
    from compressm.data import get_task

    task = get_task("toy")
    objective = find_objective(task)
    torch.manual_seed(0)
    model, teacher = (objective.make_model(task, SMALL.model, size) for size in (6, 9))
    model.eval()  # without dropout every call gives the same
    batch = load("toy").train.batch(slice(0, 10))
    outputs = model(batch.inputs, batch.lengths)

    plain = TrainingLoss(SMALL, objective)(model, batch, 0)
    assert plain.total is plain.task
    assert plain.task.item() == pytest.approx(F.cross_entropy(outputs, batch.targets).item())

    config = replace(SMALL, distillation=DistillationConfig(teacher_states=9, temperature=3.0, alpha=0.25))
    loss = TrainingLoss(config, objective, teacher)(model, batch, 0)
    # The teacher is in evaluation mode by now.
    soft = (teacher(batch.inputs, batch.lengths).double() / 3).softmax(1)
    student = (outputs.double() / 3).log_softmax(1)
    divergence = (soft * (soft.log() - student)).sum(1).mean()
    expected = 0.75 * plain.task.item() + 0.25 * 9 * divergence.item()
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert loss.task.item() == plain.task.item()
    with pytest.raises(ValueError, match="no teacher was given"):
        TrainingLoss(config, objective)

    config = replace(SMALL, regularization=RegularizationConfig(hankel_weight=0.5, hankel_until=0.5))
    pressed = TrainingLoss(config, objective)
    term = HankelRegularizer(0.5)(model).item()
    assert term > 0
    assert pressed(model, batch, 5).total.item() == pytest.approx(plain.task.item() + term, rel=1e-5)
    assert pressed(model, batch, 6).total.item() == plain.task.item()


def test_a_teacher_is_trained_once_and_its_time_counts(tmp_path: Path) -> None:
    config = replace(SMALL, distillation=DistillationConfig(teacher_states=9))
    shared = tmp_path / "teacher"
    train(config, RunFolder(tmp_path / "one"), teacher_folder=shared)
    made = (shared / "metrics.jsonl").read_bytes()
    train(replace(config, model=ModelConfig(model_dim=4, state_dim=3)), RunFolder(tmp_path / "two"),
          teacher_folder=shared)  # fmt: skip
    assert (shared / "metrics.jsonl").read_bytes() == made
    teacher = lines(shared)[-1]
    assert teacher["states"] == [9]
    assert teacher["teacher_seconds"] is None
    for run in ("one", "two"):
        summary = lines(tmp_path / run)[-1]
        assert summary["teacher_seconds"] == teacher["total_seconds"]
        own = max(line["elapsed_seconds"] for line in lines(tmp_path / run) if "elapsed_seconds" in line)
        assert summary["total_seconds"] > own + teacher["total_seconds"] - 1e-9
    # The same seed and settings as a run of its own, at full size.
    alone = replace(teacher_config(config), arm="full")
    train(alone, RunFolder(tmp_path / "full"))
    assert losses(tmp_path / "full") == losses(shared)
    # Another teacher in its place is refused.
    other = replace(config, steps=13)
    with pytest.raises(ValueError, match="teacher with other settings"):
        train(other, RunFolder(tmp_path / "three"), teacher_folder=shared)


def test_rivals_resume_as_if_they_had_never_stopped(tmp_path: Path) -> None:
    config = replace(
        SMALL,
        distillation=DistillationConfig(teacher_states=7),
        regularization=RegularizationConfig(hankel_weight=1e-2, hankel_until=0.9),
        compression=CompressionConfig(total=3, reduction="balanced", stop=1.0, cuts=1),
    )

    class StopError(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.step >= 9 and (tmp_path / "half").exists():
            raise StopError

    train(config, RunFolder(tmp_path / "whole"))
    with pytest.raises(StopError):
        train(config, RunFolder(tmp_path / "half"), watch=stop)
    resume(RunFolder(tmp_path / "half"))
    assert losses(tmp_path / "half") == losses(tmp_path / "whole")
    assert lines(tmp_path / "half")[-1]["states"] == [3]
    assert (tmp_path / "half-teacher" / "model").is_dir()
    model = compressm.load(tmp_path / "half" / "model")
    assert model.state_dims == [3]


def test_a_regulariser_presses_the_values_down(tmp_path: Path) -> None:
    pressed = replace(SMALL, regularization=RegularizationConfig(hankel_weight=1.0), steps=20)
    values = {}
    for name, config in {"plain": replace(SMALL, steps=20), "pressed": pressed}.items():
        model = train(config, RunFolder(tmp_path / name)).model
        values[name] = HankelRegularizer(1.0)(model).item()
    assert values["pressed"] < 0.7 * values["plain"]


def test_scores_of_others_are_settings() -> None:
    for name, kind in {"last": LastStates, "aire": AireStates}.items():
        settings = CompressionConfig(total=4, budget_by="score", reduction=name, stop=1.0, cuts=1)
        assert isinstance(settings.make_reducer(0), kind)
    for wrong, words in (
        ({"teacher_states": 0}, "at least 1"),
        ({"temperature": 0.0}, "must be positive"),
        ({"alpha": 1.5}, r"\[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=words):
            DistillationConfig(**wrong)  # type: ignore[arg-type]
    for wrong, words in (
        ({"hankel_weight": -1.0}, "positive and finite"),
        ({"hankel_until": 0.0}, "share of training"),
        ({"hankel_refresh": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            RegularizationConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="asks for real values"):
        TrainConfig(task="sysid", distillation=DistillationConfig(teacher_states=3))
