"""Runs: the same numbers for the same seed, whole folders, and no loss at a crash."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import compressm
from compressm.data import load
from compressm.training import (
    CompressionConfig,
    ModelConfig,
    OptimizerConfig,
    Progress,
    RunFolder,
    TrainConfig,
    evaluate,
    loop,
    resume,
    train,
)
from compressm.training.session import Session, learning_rate_factor

CONFIG = TrainConfig(
    task="toy",
    seed=0,
    steps=40,
    batch_size=16,
    log_every=10,
    validate_every=20,
    checkpoint_every=15,
    model=ModelConfig(num_layers=2, model_dim=4, state_dim=12),
    optimizer=OptimizerConfig(lr=2e-2, ssm_lr_factor=0.5, weight_decay=0.01),
    compression=CompressionConfig(rank=3, stop=0.5),
)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def numbers(folder: Path) -> list[dict[str, Any]]:
    """Metrics and cuts without what a clock says."""
    clocks = {"seconds", "step_seconds", "elapsed_seconds", "total_seconds", "cut_seconds", "floor_seconds"}
    clocks |= {"evaluation_seconds"}
    clocks |= {"step_seconds_before", "step_seconds_after", "stages", "peak_memory", "streamed_per_second"}
    records = lines(folder / "metrics.jsonl") + lines(folder / "cuts.jsonl")
    return [{key: value for key, value in record.items() if key not in clocks} for record in records]


def test_a_run_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = train(CONFIG, RunFolder(tmp_path / "run"), watch=seen.append)
    folder = tmp_path / "run"
    assert {f.name for f in folder.iterdir()} == {"config.json", "metrics.jsonl", "cuts.jsonl", "model"}
    config = json.loads((folder / "config.json").read_text())
    assert config["seed"] == 0
    assert config["arm"] == "compressm"
    assert config["version"] == compressm.__version__
    assert RunFolder(folder).read_config() == replace(CONFIG, arm="compressm")

    cuts = lines(folder / "cuts.jsonl")
    assert [cut["step"] for cut in cuts] == [5, 10, 15, 20]
    assert len(cuts) == CONFIG.compression.cuts
    metrics = lines(folder / "metrics.jsonl")
    kinds = [record["kind"] for record in metrics]
    assert kinds.count("test") == 1  # scored once, at the end
    assert kinds[-3:] == ["validation", "test", "summary"]
    assert [r["step"] for r in metrics if r["kind"] == "validation"] == [20, 40]
    assert [r["step"] for r in metrics if r["kind"] == "train"] == [5, 10, 15, 20, 30, 40]
    assert metrics[0]["states"] == [12, 12]
    assert [p.step for p in seen] == [5, 10, 15, 20, 30, 40]

    model = compressm.load(folder / "model")
    sizes = [layer["new"] for layer in cuts[-1]["layers"]]
    assert model.state_dims == sizes == metrics[-1]["states"] == result.model.state_dims
    assert all(size <= 3 for size in sizes)
    assert evaluate(model, load("toy").test) == result.test
    assert metrics[-2]["accuracy"] == result.test.accuracy
    assert 0 < metrics[-1]["evaluation_seconds"] < metrics[-1]["total_seconds"]


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(replace(CONFIG, seed=seed), RunFolder(tmp_path / name))
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert numbers(tmp_path / "a") != numbers(tmp_path / "c")
    a, b = (compressm.load(tmp_path / name / "model").state_dict() for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("crash", [12, 17, 33])
def test_a_killed_run_resumes_as_if_it_had_never_stopped(tmp_path: Path, crash: int) -> None:
    config = replace(CONFIG, checkpoint_every=4, log_every=1)

    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == crash:
            raise Killed

    train(config, RunFolder(tmp_path / "whole"))
    folder = RunFolder(tmp_path / "killed")
    with pytest.raises(Killed):
        train(config, folder, watch=kill)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # the line that a power cut leaves
    scored = folder.read_checkpoint()["evaluation_seconds"]  # once before the last of these crashes
    assert (scored > 0) == (crash == 33)
    resume(folder)
    assert lines(tmp_path / "killed" / "metrics.jsonl")[-1]["evaluation_seconds"] > scored
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()


def test_resume_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run"):
        resume(RunFolder(tmp_path))
    folder = RunFolder(tmp_path / "run")
    folder.create(CONFIG)
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint\.pt"):
        resume(folder)
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
        resume(folder)
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"steps"', '"stepps"'))
    with pytest.raises(ValueError, match=r"config\.json: unknown key stepps"):
        resume(folder)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        resume(folder)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not empty; choose another"):
        train(CONFIG, RunFolder(tmp_path))
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    hot = replace(CONFIG, optimizer=OptimizerConfig(lr=1e30), compression=CompressionConfig())
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step \d+; try a lower learning rate"):
        train(hot, RunFolder(tmp_path / "run"))


def test_learning_rate_warms_up_and_decays() -> None:
    config = OptimizerConfig(warmup=0.1)
    factors = [learning_rate_factor(step, 100, config) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (k + 1) for k in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert 0 < factors[99] < 0.001
    constant = OptimizerConfig(warmup=0.0, cosine=False)
    assert {learning_rate_factor(step, 100, constant) for step in range(100)} == {1.0}


def test_learning_beats_guessing(tmp_path: Path) -> None:
    """Three classes; the loop, the cuts and the metrics together must learn the toy task."""
    config = replace(CONFIG, steps=150, model=ModelConfig(num_layers=1, model_dim=8, state_dim=24))
    result = train(config, RunFolder(tmp_path / "run"))
    assert result.test.accuracy > 0.8


def test_a_cut_that_the_guard_takes_back_leaves_the_run_as_without_cuts(tmp_path: Path) -> None:
    """The first and the last cut are undone; metrics are those of an uncut run, cuts stay on record."""
    harsh = CompressionConfig(rank=3, stop=0.5, cuts=2, guard=0.0, patience=5)
    config = replace(CONFIG, compression=harsh, validate_every=100)
    worse = iter(range(1000))
    folder = RunFolder(tmp_path / "guarded")
    with pytest.MonkeyPatch.context() as patch:

        class Falling:
            """A validation that gets worse with every look."""

            def __init__(self, *_: Any) -> None:
                self.value = -float(next(worse))

            def to_dict(self) -> dict[str, float]:
                return {"loss": 1.0}

        patch.setattr("compressm.training.loop.evaluate", Falling)
        train(config, folder)
    train(replace(CONFIG, compression=CompressionConfig(), validate_every=100), RunFolder(tmp_path / "plain"))
    guarded, plain = (
        [
            (line["step"], line["loss"])
            for line in lines(tmp_path / name / "metrics.jsonl")
            if line["kind"] == "train" and line["step"] % 10 == 0 and line["step"] > 30
        ]
        for name in ("guarded", "plain")
    )
    assert guarded == plain
    cuts = lines(tmp_path / "guarded" / "cuts.jsonl")
    assert [cut["step"] for cut in cuts] == [10] * 4 + [20] * 4
    assert [cut["undid"] is not None for cut in cuts] == [False, True, True, True] * 2
    assert compressm.load(tmp_path / "guarded" / "model").state_dims == [12, 12]


def test_the_automatic_schedule_and_tracking_in_a_run(tmp_path: Path) -> None:
    settings = CompressionConfig(rank=3, schedule="auto", cuts=2, latest=0.8, track_every=10)
    result = train(replace(CONFIG, compression=settings), RunFolder(tmp_path / "run"))
    assert result.model.state_dims == [3, 3]
    assert all(2 <= record.step <= 32 for record in result.records)
    checks = lines(tmp_path / "run" / "hsv.jsonl")
    assert {check["step"] for check in checks} >= {10, 20, 30, 40}
    assert all(check["hankel_singular_values"] for check in checks)


@pytest.mark.parametrize(
    "reduction", ["gradients", "covariance", "modal", "modal-hinf", "random", "smallest"]
)
def test_every_reduction_trains(tmp_path: Path, reduction: Any) -> None:
    settings = CompressionConfig(fraction=0.25, stop=0.5, reduction=reduction)
    result = train(replace(CONFIG, compression=settings), RunFolder(tmp_path / "run"))
    assert result.model.state_dims <= [3, 3]


def test_a_step_in_which_kernels_were_loaded_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []
    loading = iter([0.0, 1e-6])  # before and after the first step's work; no more is loaded then
    monkeypatch.setattr(loop, "compile_seconds", lambda: next(loading, 1e-6))
    monkeypatch.setattr(Session, "record_step_time", lambda session, _: timed.append(session.step))
    short = replace(CONFIG, steps=5, log_every=5, compression=CompressionConfig())
    train(short, RunFolder(tmp_path / "run"))
    assert timed == [2, 3, 4, 5]
    (line,) = (line for line in lines(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train")
    assert line["step_seconds"] > 0
