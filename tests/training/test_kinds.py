"""Runs of every kind of task: the same folders, resumed as if never stopped, with the figures of the kind."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compressm
from compressm.data import IGNORE, Batch, Split, Splits, Task, get_task, load
from compressm.data import tasks as registry
from compressm.data.copying import make_copying
from compressm.data.encodings import OneHot
from compressm.models import LanguageModel, PairClassifier, SequenceRegressor
from compressm.training import (
    CompressionConfig,
    ModelConfig,
    OptimizerConfig,
    Progress,
    RunFolder,
    TrainConfig,
    evaluate,
    find_objective,
    resume,
    train,
)


def text(count: int, random: np.random.RandomState) -> Split:
    """Ids that go up by 1 or 2: the next of 6 is one of two, so that a perfect model has 1 bit left."""
    ids = np.cumsum(random.randint(1, 3, size=(count, 21)), axis=1) % 6
    return Split(ids[:, :-1], ids[:, 1:], encode=OneHot(6))


def couples(count: int, random: np.random.RandomState) -> Split:
    """Pairs of constant sequences, of equal or opposite sign, with noise and lengths."""
    signs, labels = random.choice((-1.0, 1.0), size=count), np.arange(count) % 2
    sides = np.stack((signs, np.where(labels == 1, signs, -signs)), axis=1)
    waves = sides[:, :, None, None] + 0.3 * random.standard_normal((count, 2, 12, 1))
    return Split(waves.astype(np.float32), labels, random.randint(6, 13, size=(count, 2)))


def averages(count: int, random: np.random.RandomState) -> Split:
    """A linear system of order 1, and its own output of the step before as an input."""
    u = random.standard_normal((count, 40, 1))
    y = np.zeros((count, 41, 1))
    for step in range(40):
        y[:, step + 1] = 0.8 * y[:, step] + 0.5 * u[:, step]
    inputs = np.concatenate((y[:, :-1], u), axis=2)
    return Split(inputs.astype(np.float32), y[:, 1:].astype(np.float32))


def splits(make: Any) -> Splits:
    return Splits(*(make(count, np.random.RandomState(part)) for part, count in enumerate((120, 30, 40))))


_task = {"sizes": (120, 30, 40), "description": "", "origin": "", "input_dim": 1, "num_classes": 2}
TASKS = {
    "text": Task(
        **{**_task, "name": "text", "kind": "tokens", "length": 20, "input_dim": 6, "num_classes": 6},
        vocab_size=6,
        symbol="character",
        reader=lambda _: splits(text),
    ),
    "couples": Task(**_task, name="couples", kind="pairs", length=12, reader=lambda _: splits(couples)),
    "averages": Task(
        **{**_task, "name": "averages", "kind": "regression", "length": 40, "input_dim": 2},
        target_dim=1,
        feedback=True,
        reader=lambda _: splits(averages),
    ),
}
MODELS = {"text": LanguageModel, "couples": PairClassifier, "averages": SequenceRegressor}


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TASKS", {**registry._TASKS, **TASKS})


def config(task: str, **changes: Any) -> TrainConfig:
    model = ModelConfig(num_layers=2, model_dim=8, state_dim=6, dropout=0.0)
    if get_task(task).kind == "tokens":
        model = replace(model, mixer="mamba", conv_kernel=2)
    settings = {
        "steps": 30, "batch_size": 16, "log_every": 10, "validate_every": 15, "checkpoint_every": 10,
        "model": model, "optimizer": OptimizerConfig(lr=2e-2), "task": task,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(folder: Path) -> list[dict[str, Any]]:
    measured = ("seconds", "stages", "peak_memory", "streamed_per_second")
    return [
        {k: v for k, v in line.items() if not any(word in k for word in measured)} for line in lines(folder)
    ]


class Killed(BaseException):
    pass


def kill(progress: Progress) -> None:
    if progress.step == 20:
        raise Killed


@pytest.mark.parametrize("task", TASKS)
def test_every_kind_trains_and_resumes_as_if_it_had_never_stopped(task: str, tmp_path: Path) -> None:
    result = train(config(task), RunFolder(tmp_path / "whole"))
    assert type(result.model) is MODELS[task]
    again = compressm.load(tmp_path / "whole" / "model")
    score = evaluate(again, load(task).test, find_objective(get_task(task)))
    assert score.loss == result.test.loss
    assert score.figures.items() <= result.test.figures.items()
    with pytest.raises(Killed):
        train(config(task), RunFolder(tmp_path / "killed"), watch=kill)
    resume(RunFolder(tmp_path / "killed"))
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_text_is_told_in_bits_and_learned_to_the_bit(tmp_path: Path) -> None:
    result = train(config("text", steps=120), RunFolder(tmp_path / "run"))
    test = lines(tmp_path / "run")[-2]
    assert test["metric"] == "bits_per_character"
    assert test["bits_per_character"] == pytest.approx(test["loss"] / math.log(2))
    assert test["perplexity"] == pytest.approx(math.exp(test["loss"]))
    assert 0.97 < result.test.value < 1.15  # one of two characters is a bit; less cannot be
    assert 0.3 < result.test.accuracy < 0.7


def test_pairs_are_told_apart(tmp_path: Path) -> None:
    result = train(config("couples", steps=80), RunFolder(tmp_path / "run"))
    assert result.test.value == result.test.accuracy > 0.9


def test_regression_and_its_rollout(tmp_path: Path) -> None:
    result = train(config("averages", steps=150), RunFolder(tmp_path / "run"))
    model, test = result.model.eval(), load("averages").test
    x, y = (torch.from_numpy(array) for array in (test.inputs, test.targets))
    with torch.no_grad():
        error = (model(x) - y).square().mean().item()
        assert result.test.loss == pytest.approx(error, rel=1e-5)
        assert result.test.value == pytest.approx(math.sqrt(error) / y.std(correction=0).item(), rel=1e-4)
        # The roll-out once more, each step from the whole sequence so far.
        fed = x.clone()
        for step in range(32, 40):
            fed[:, step, 0] = model(fed[:, : step + 1])[:, step - 1, 0]
        free = model(fed)[:, 32:]
    each = (free - y[:, 32:]).square().mean(dim=(1, 2)).sqrt() / y[:, 32:].std(correction=0)
    assert result.test.figures["rollout_nrmse"] == pytest.approx(np.median(each.numpy()), rel=1e-3)
    assert result.test.figures["rollout_escaped"] == 0.0
    assert result.test.value < 0.3
    assert result.test.value < result.test.figures["rollout_nrmse"] < 0.6


def test_only_answers_count(tmp_path: Path) -> None:
    """What a recall run reports is the loss and accuracy of its answers, counted one by one."""
    data = make_copying(sizes=(64, 8, 8))
    run = config("selective-copying", steps=2)
    result = train(run, RunFolder(tmp_path / "run"), splits=data)
    ids, targets = data.test.inputs, data.test.targets
    right, loss, count = 0, 0.0, 0
    with torch.no_grad():
        scores = result.model.eval()(torch.from_numpy(ids).long()).double().log_softmax(-1).numpy()
    for row in range(8):
        for step in range(ids.shape[1]):
            if targets[row, step] != IGNORE:
                loss -= scores[row, step, targets[row, step]]
                right += int(scores[row, step].argmax() == targets[row, step])
                count += 1
    assert count == 64
    assert result.test.loss == pytest.approx(loss / count, rel=1e-5)
    assert result.test.accuracy == right / count
    assert result.test.metric == ("accuracy", "max")
    objective = find_objective(get_task("selective-copying"))
    batch: Batch = objective.prepare(data.train).batch(slice(0, 4))
    logits = torch.randn(4, ids.shape[1], 10, requires_grad=True)
    objective.loss(logits, batch.targets).backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, batch.targets != IGNORE)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("sysid", {"mixer": "lru-bi"}, "task 'sysid' is of kind 'regression', for which there are lru, s5"),
        ("mqar", {"mixer": "s5-bi"}, "task 'mqar' is of kind 'tokens', for which there are mamba"),
        ("toy", {"expand": 2}, "expand is 2, but the mixer 'lru' has no such setting; mamba, mamba2 have it"),
        ("mqar", {"mixer": "gla", "head_dim": 4}, "the mixer 'gla' has no such setting; mamba2 have it"),
        ("mqar", {"mixer": "gla", "num_heads": 0}, "num_heads is 0; it must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    task: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(task=task, model=ModelConfig(**settings))


@pytest.mark.parametrize(
    ("mixer", "options"),
    [
        ("mamba", {"expand": 1}),
        ("mamba2", {"head_dim": 4, "expand": 3}),
        ("gla", {"num_heads": 2}),
        ("retnet", {}),
        ("deltanet", {"conv_kernel": 3}),
        ("gated-deltanet", {"num_heads": 1}),
        ("lru", {}),
    ],
)
def test_every_language_mixer_trains_with_its_settings(
    mixer: Any, options: dict[str, int], tmp_path: Path
) -> None:
    model = ModelConfig(num_layers=1, model_dim=8, state_dim=4, mixer=mixer, **options)
    train(config("text", steps=3, model=model), RunFolder(tmp_path / "run"))
    description = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert description["config"]["mixer_options"] == options
    assert RunFolder(tmp_path / "run").read_config().model == model


def test_the_floor_is_measured_where_recurrences_can_be_taken_out(tmp_path: Path) -> None:
    for mixer, measured in (("lru", True), ("mamba", False)):
        model = ModelConfig(model_dim=8, state_dim=4, mixer=mixer)  # type: ignore[arg-type]
        train(config("text", steps=2, model=model), RunFolder(tmp_path / mixer))
        floor = lines(tmp_path / mixer)[-1]["floor_seconds"]["after"]
        assert (floor is not None and floor > 0) == measured


def test_a_guard_watches_the_metric_of_the_kind(tmp_path: Path) -> None:
    """An error that falls is no reason to take a cut back; a share of right answers that falls is."""
    harsh = CompressionConfig(rank=2, stop=0.5, cuts=1, guard=10.0, patience=5)
    result = train(config("averages", compression=harsh), RunFolder(tmp_path / "run"))
    assert [record.verdict for record in result.records] == ["kept"]
    assert result.model.state_dims == [2, 2]
    better = iter(range(100, 0, -1))
    with pytest.MonkeyPatch.context() as patch:

        class Improving:
            def __init__(self, *_: Any) -> None:
                self.value = float(next(better))

            def to_dict(self) -> dict[str, float]:
                return {"loss": 1.0}

        patch.setattr("compressm.training.loop.evaluate", Improving)
        strict = replace(harsh, guard=0.0)
        result = train(config("averages", compression=strict), RunFolder(tmp_path / "strict"))
    assert [record.verdict for record in result.records] == ["kept"]


@pytest.mark.parametrize("task", ["toy", "couples", "averages"])
def test_selective_layers_are_cut_in_every_kind_of_model(task: str, tmp_path: Path) -> None:
    """By gradients of losses over classes and values, and with the run's costs told."""
    model = ModelConfig(num_layers=2, model_dim=8, state_dim=6, dropout=0.0, mixer="mamba", expand=1)
    cuts = CompressionConfig(rank=2, cuts=2, stop=0.5)
    result = train(config(task, model=model, compression=cuts), RunFolder(tmp_path / "run"))
    assert result.model.state_dims == [2, 2]
    assert {layer.reduction for record in result.records for layer in record.layers} == {"gradients"}
    summary = lines(tmp_path / "run")[-1]
    assert (summary["streamed_per_second"] is None) == (task == "couples")
    assert summary["flops_per_step"] > 0


@pytest.mark.parametrize("reduction", [None, "energy", "random"])
def test_selective_layers_are_cut_in_training_and_resume(reduction: str | None, tmp_path: Path) -> None:
    cuts = CompressionConfig(rank=2, cuts=2, start=0.2, stop=0.5, reduction=reduction)
    settings = config("text", compression=cuts, checkpoint_every=13, log_every=1)
    result = train(settings, RunFolder(tmp_path / "whole"))
    assert result.model.state_dims == [2, 2]
    assert [record.step for record in result.records] == [10, 15]
    with pytest.raises(Killed):
        train(settings, RunFolder(tmp_path / "killed"), watch=kill)
    resume(RunFolder(tmp_path / "killed"))
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_unknown_reductions_are_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"reduction is 'blanced'; choose one of balanced, .*, random"):
        CompressionConfig(rank=2, reduction="blanced")
    with pytest.raises(ValueError, match="track_every is 0; it must be at least 1"):
        CompressionConfig(track_every=0)


def test_tracking_without_cuts_changes_nothing_else(tmp_path: Path) -> None:
    followed = config("averages", compression=CompressionConfig(track_every=10))
    result = train(followed, RunFolder(tmp_path / "followed"))
    train(config("averages"), RunFolder(tmp_path / "plain"))
    assert result.records == []
    assert numbers(tmp_path / "followed") == numbers(tmp_path / "plain")
    checks = [json.loads(line) for line in (tmp_path / "followed" / "hsv.jsonl").read_text().splitlines()]
    assert [check["step"] for check in checks] == [10, 10, 20, 20, 30, 30]
    assert all(len(check["hankel_singular_values"]) > 0 for check in checks)
    assert json.loads((tmp_path / "followed" / "config.json").read_text())["arm"] == "full"


def test_folders_of_older_runs_are_read() -> None:
    plain = TrainConfig(task="toy").to_dict()
    for name in ("expand", "conv_kernel", "head_dim", "num_heads"):
        del plain["model"][name]
    plain["compression"]["reduction"] = "states"
    assert TrainConfig.from_dict(plain).model == ModelConfig()


def test_noise_on_what_is_fed_back_alone() -> None:
    """In training the inputs that hold the model's own outputs are disturbed; torques and targets are not."""
    objective, batch = find_objective(get_task("averages")), load("averages").train.batch(slice(0, 16))
    torch.manual_seed(0)
    disturbed = objective.disturbed(batch, 0.1)
    noise = disturbed.inputs - batch.inputs
    assert noise[..., 0].std().item() == pytest.approx(0.1, rel=0.1)
    assert noise[..., 1:].abs().max() == 0.0
    assert torch.equal(disturbed.targets, batch.targets)
    assert torch.equal(objective.disturbed(batch, 0.0).inputs, batch.inputs)


def test_noise_is_the_same_after_a_resume_and_refused_without_feedback(tmp_path: Path) -> None:
    noisy = config("averages", feedback_noise=0.1)
    train(noisy, RunFolder(tmp_path / "whole"))
    with pytest.raises(Killed):
        train(noisy, RunFolder(tmp_path / "killed"), watch=kill)
    resume(RunFolder(tmp_path / "killed"))
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    train(config("averages"), RunFolder(tmp_path / "plain"))
    assert numbers(tmp_path / "plain") != numbers(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"feedback_noise is 0.1, but task 'toy' feeds no outputs back"):
        TrainConfig(task="toy", feedback_noise=0.1)


def test_long_sequences_are_evaluated_few_at_once() -> None:
    """The score is that of all at once; no batch has more than some hundred thousand steps."""

    sizes = []

    class Watched(torch.nn.Linear):
        def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
            assert lengths is None
            sizes.append(len(x))
            return super().forward(x.mean(dim=1))

    model = Watched(1, 3)
    random = np.random.RandomState(0)
    split = Split(random.standard_normal((7, 100_000, 1)).astype(np.float32), np.arange(7) % 3)
    score = evaluate(model, split)  # type: ignore[arg-type]
    assert sizes == [2, 2, 2, 1]
    assert evaluate(model, split, batch_size=7).loss == pytest.approx(score.loss)  # type: ignore[arg-type]
    assert sizes[-1] == 7
