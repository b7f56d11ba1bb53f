"""By what runs are compared: what they name themselves, and older runs as before."""

import json
from pathlib import Path
from typing import Any

import pytest

from compressm.report import headline, read_run, report_html, summary_table
from compressm.report.captions import captions
from compressm.report.groups import group_runs
from compressm.report.metric import Metric, metric_of


def write(folder: Path, seed: int, test: dict[str, Any], **config: Any) -> Path:
    folder.mkdir()
    settings = {"arm": "full", "task": "shakespeare", "seed": seed, "steps": 10, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    line = {"step": 10, "states": [8, 8], "elapsed_seconds": 1.0, "step_seconds": 0.1}
    records = [{"kind": kind, **line, **test} for kind in ("train", "validation", "test")]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def bits(value: float) -> dict[str, Any]:
    told = {"loss": value * 0.6931, "accuracy": 0.5, "bits_per_character": value, "perplexity": 2**value}
    return {**told, "metric": "bits_per_character"}


def test_runs_are_compared_by_the_figure_they_name(tmp_path: Path) -> None:
    runs = [read_run(write(tmp_path / name, seed, bits(2.4 + 0.2 * seed))) for seed, name in enumerate("ab")]
    metric = metric_of(runs)
    assert metric == Metric("bits_per_character")
    assert not metric.higher_is_better
    assert [metric.of(run.test) for run in runs] == [2.4, pytest.approx(2.6)]
    assert headline(runs).text == "full: 8 states per layer, 2.500 test bits per character"
    table = summary_table(runs)
    assert table.column("test bits per character mean") == ("2.5000",)
    assert table.column("test bits per character each seed") == ("2.4000 2.6000",)
    assert table.column("test loss") == ("1.7328",)
    assert "Lower is better" in captions(runs)["accuracy"][1]
    page = report_html(runs)
    assert "Test bits per character" in page
    assert "accuracy" not in page


def test_the_better_of_two_arms_has_less_error(tmp_path: Path) -> None:
    worse = write(tmp_path / "a", 0, {"loss": 0.1, "nrmse": 0.4, "metric": "nrmse"}, arm="one")
    better = write(tmp_path / "b", 0, {"loss": 0.2, "nrmse": 0.3, "metric": "nrmse"}, arm="two")
    runs = [read_run(folder) for folder in (worse, better)]
    assert headline(runs).finding == "two: 8 states per layer, test normalised RMSE 0.300"


def test_free_runs_have_a_column(tmp_path: Path) -> None:
    told = {"loss": 0.1, "nrmse": 0.4, "metric": "nrmse", "rollout_nrmse": 0.71}
    table = summary_table([read_run(write(tmp_path / "a", 0, told))])
    assert table.column("test roll-out error") == ("0.710",)


def test_runs_that_name_nothing_or_different_things_are_compared_as_before(tmp_path: Path) -> None:
    old = read_run(write(tmp_path / "old", 0, {"loss": 0.3, "accuracy": 0.9}))
    new = read_run(write(tmp_path / "new", 1, {"loss": 0.3, "accuracy": 0.8, "metric": "accuracy"}))
    text = read_run(write(tmp_path / "text", 0, bits(2.0)))
    bare = read_run(write(tmp_path / "bare", 0, {"loss": 0.3}))
    error = read_run(write(tmp_path / "error", 0, {"loss": 0.3, "nrmse": 0.1, "metric": "nrmse"}))
    assert metric_of([old]) == metric_of([old, new]) == metric_of([new]) == Metric("accuracy")
    assert metric_of([new, text]) == metric_of([old, error]) == Metric("accuracy")
    assert metric_of([bare]) == metric_of([bare, error]) == Metric("loss")
    assert "test loss" not in [column.heading for column in summary_table([old]).columns]


def test_a_setting_that_is_not_set_parts_no_group(tmp_path: Path) -> None:
    old = write(tmp_path / "old", 0, bits(2.0), model={"state_dim": 8})
    new = write(tmp_path / "new", 1, bits(2.0), model={"state_dim": 8, "expand": None})
    other = write(tmp_path / "other", 2, bits(2.0), model={"state_dim": 8, "expand": 4})
    groups = group_runs([read_run(folder) for folder in (old, new, other)])
    assert sorted(len(group.runs) for group in groups) == [1, 2]


def test_a_metric_that_is_no_name_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", 0, {"loss": 0.3, "metric": 7})
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1: 'metric' is 7; expected the name"):
        read_run(folder)
