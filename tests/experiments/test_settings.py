"""Experiment files: what is in them becomes cells, and what is wrong is named before anything runs."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from compressm.experiments import make_cells, read_experiment
from compressm.experiments.overrides import at_path, check_overrides, check_path, merged
from compressm.experiments.settings import parse_experiment
from compressm.training import CompressionConfig, ModelConfig, TrainConfig

TEXT = """
title = "States"
seeds = [0, 3]
sizes = [4, 8]

[base]
task = "toy"
steps = 30
model.state_dim = 12

[arms.full]

[arms.compressm]
size = "compression.rank"
compression.stop = 0.5

[arms.scratch]
size = "model.state_dim"
sizes = [4]
batch_size = 8
"""


def plain() -> dict[str, Any]:
    return {
        "seeds": [0],
        "sizes": [4],
        "base": {"task": "toy", "model": {"state_dim": 12}},
        "arms": {"cut": {"size": "compression.rank"}},
    }


def test_a_file_becomes_a_grid_of_complete_settings(tmp_path: Path) -> None:
    file = tmp_path / "states.toml"
    file.write_text(TEXT)
    cells = make_cells(read_experiment(file))
    assert [cell.name for cell in cells] == [
        f"{name}-seed{seed}"
        for seed in (0, 3)
        for name in ("full", "compressm-4", "compressm-8", "scratch-4")
    ]
    model = ModelConfig(state_dim=12)
    full = TrainConfig(task="toy", steps=30, arm="full", model=model)
    assert cells[0].config == full
    assert cells[2].config == replace(full, arm="compressm", compression=CompressionConfig(rank=8, stop=0.5))
    assert cells[7].config == replace(
        full, arm="scratch", seed=3, batch_size=8, model=ModelConfig(state_dim=4)
    )
    assert len({cell.hash for cell in cells}) == len({cell.folder for cell in cells}) == 8


def test_json_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(plain()))
    experiment = read_experiment(tmp_path / "a.json")
    assert experiment == parse_experiment(plain(), title="a")
    assert [cell.name for cell in make_cells(experiment)] == ["cut-4-seed0"]


def test_sizes_may_be_shares() -> None:
    table = plain() | {"sizes": [0.02, 0.1], "arms": {"tau": {"size": "compression.tolerance"}}}
    cells = make_cells(parse_experiment(table))
    assert [cell.name for cell in cells] == ["tau-0.02-seed0", "tau-0.1-seed0"]
    assert [cell.config.compression.tolerance for cell in cells] == [0.02, 0.1]


def test_the_fingerprint_is_of_all_settings_but_the_place_of_the_data() -> None:
    (cell,) = make_cells(parse_experiment(plain()))
    (elsewhere,) = make_cells(parse_experiment(plain()), Path("elsewhere"))
    assert elsewhere.config.data_dir == Path("elsewhere")
    assert elsewhere.hash == cell.hash
    lrs = []
    for lr in (1, 1.0):
        table = plain()
        table["base"]["optimizer"] = {"lr": lr}
        lrs.append(make_cells(parse_experiment(table))[0].hash)
    assert lrs[0] == lrs[1] != cell.hash
    longer = plain()
    longer["base"]["steps"] = 77
    (other,) = make_cells(parse_experiment(longer))
    assert other.name == cell.name
    assert other.hash != cell.hash
    assert other.folder != cell.folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": [0]}, r"unknown key seed; did you mean seeds\?"),
        ({"seeds": []}, r"seeds is \[\]"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\]"),
        ({"seeds": [True]}, r"seeds is \[True\]"),
        ({"seeds": [-1]}, r"seeds is \[-1\]"),
        ({"sizes": ["4"]}, r"sizes is \['4'\]"),
        ({"sizes": []}, r"arms.cut.size is 'compression.rank', but there are no sizes"),
        ({"title": 3}, r"title is 3"),
        ({"base": {}}, r"no base table with a task"),
        ({"base": {"task": "tyo"}}, r"arm 'cut' at size 4: unknown task 'tyo'"),
        ({"base": {"task": "toy", "stpes": 3}}, r"unknown key base.stpes; did you mean base.steps\?"),
        ({"base": {"task": "toy", "steps": "3"}}, r"base.steps is '3'; it must be a whole number"),
        ({"base": {"task": "toy", "steps": True}}, r"base.steps is True"),
        ({"base": {"task": "toy", "seed": 3}}, r"base.seed is set by the grid"),
        ({"base": {"task": "toy", "model": 3}}, r"base.model is 3; it must be a table"),
        ({"base": {"task": "toy", "model": {"mixer": "lur"}}}, r"base.model.mixer is 'lur'; it must"),
        ({"arms": {}}, r"there are no arms"),
        ({"arms": {"../x": {}}}, r"name of an arm is also a folder's"),
        ({"arms": {"a": 3}}, r"arms.a is 3; it must be a table"),
        ({"arms": {"a": {"sizes": [3]}}}, r"arms.a.size does not say which setting"),
        ({"arms": {"a": {"size": 3}}}, r"arms.a.size is 3"),
        ({"arms": {"a": {"size": "compression.rnak"}}}, r"did you mean arms.a.size = compression.rank\?"),
        ({"arms": {"a": {"size": "model"}}}, r"arms.a.size is 'model', which is a table"),
        ({"arms": {"a": {"size": "steps.rank"}}}, r"but steps has no fields"),
        ({"arms": {"a": {"compresion": {}}}}, r"key arms.a.compresion; did you mean arms.a.compression\?"),
        (
            {"arms": {"a": {"size": "compression.rank", "compression": {"fraction": 0.5}}}},
            r"not rank and fraction",
        ),
        ({"sizes": [400]}, r"arm 'cut' at size 400: .*has only 12 states"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(plain() | change))
    with pytest.raises(ValueError, match=message):
        make_cells(read_experiment(file))


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.toml: no such experiment file"):
        read_experiment(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("seeds = [")
    with pytest.raises(ValueError, match=r"bad.toml: "):
        read_experiment(tmp_path / "bad.toml")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"list.json: holds a list"):
        read_experiment(tmp_path / "list.json")


@dataclass(frozen=True)
class Inner:
    kind: Literal["a", "b"] = "a"
    rate: float | None = None


@dataclass(frozen=True)
class Outer:
    names: list[str] = field(default_factory=list)
    sizes: dict[str, int] | None = None
    place: Path | None = None
    shape: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)


def test_options_of_any_kind_are_checked() -> None:
    good = {"names": ["x"], "sizes": {"a": 3}, "place": "here", "shape": [1, 2], "inner": {"rate": 1}}
    check_overrides(good, Outer, "")
    check_overrides({"inner": {"kind": "b", "rate": None}, "sizes": None}, Outer, "")
    for bad in ({"names": "x"}, {"sizes": [3]}, {"place": 3}, {"shape": 2}, {"inner": {"kind": "c"}}):
        with pytest.raises(ValueError, match="it must be"):
            check_overrides(bad, Outer, "")
    check_path("inner.rate", Outer, "size")


def test_tables_are_laid_over_each_other_at_every_depth() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}}, at_path("a.e", 5), {"d": None}) == {
        "a": {"b": 4, "c": 2, "e": 5},
        "d": None,
    }
