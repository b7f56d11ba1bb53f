"""The tables of `compressm reproduce`: complete files, attempts as advertised, the whole path on toy data."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressm.cli import main
from compressm.compression import AutoSchedule, Schedule
from compressm.data import Split, Splits, load
from compressm.experiments import (
    Cell,
    make_cells,
    read_experiment,
    read_reproduction,
    reproduction_names,
    run_experiment,
    write_reproduction,
)
from compressm.experiments.beside_paper import paper_table
from compressm.experiments.reproduction import BUDGETS, BudgetName, Reproduction, parse_reproduction
from compressm.experiments.results import Results
from compressm.training import CompressionConfig, ModelConfig, RunFolder, TrainConfig, train

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHIPPED = sorted(file.stem for file in EXPERIMENTS.glob("*.toml"))
PAPER = {"smnist", "scifar", "listops", "pathfinder", "aan", "imdb", "mamba", "hankel", "distillation"}


@cache
def cells_of(name: str, budget: BudgetName) -> tuple[Cell, ...]:
    return tuple(make_cells(read_reproduction(name).experiment(budget)))


def all_cells() -> list[Cell]:
    cells = [c for name in reproduction_names() for budget in BUDGETS for c in cells_of(name, budget)]
    return cells + [c for name in SHIPPED for c in make_cells(read_experiment(EXPERIMENTS / f"{name}.toml"))]


def test_every_table_of_the_paper_is_there() -> None:
    assert set(reproduction_names()) >= PAPER | {"pragmatic", "tracks", "rivals"}


@pytest.mark.parametrize("name", reproduction_names())
@pytest.mark.parametrize("budget", BUDGETS)
def test_files_are_complete(name: str, budget: BudgetName) -> None:
    table, cells = read_reproduction(name), cells_of(name, budget)
    assert len({cell.folder for cell in cells}) == len(cells)
    assert table.minutes(budget) > 0
    arms = {cell.arm for cell in cells}
    assert "full" in arms or name in ("states-rivals", "layers")
    for score in table.published:
        assert 0 < score.value < 100
        # What is published is what the paper's budget repeats.
        paper = {(cell.arm, cell.size) for cell in cells_of(name, "paper")}
        wanted = {("full", None), (score.arm, score.states), ("tau", score.tolerance)}
        assert paper & wanted, score


def test_small_budgets_are_those_of_the_committed_experiments() -> None:
    for name in ("states", "states-rivals", "blocks", "layers", "auto"):
        ours = {cell.hash for cell in cells_of(name, "small")}
        assert ours == {cell.hash for cell in make_cells(read_experiment(EXPERIMENTS / f"{name}.toml"))}


def test_every_shipped_cell_has_a_step_for_each_attempt() -> None:
    fired: dict[Schedule, list[int]] = {}
    for cell in all_cells():
        settings, steps = cell.config.compression, cell.config.steps
        if not settings.cuts_at_all:
            continue
        schedule = settings.make_schedule(steps)
        assert schedule.attempts == settings.cuts
        if not isinstance(schedule, Schedule):
            continue
        if schedule not in fired:
            # As the loop asks, step by step; long trainings at the steps around an attempt.
            asked = range(1, steps + 1) if steps <= 20_000 else near(schedule.steps)
            fired[schedule] = [step for step in asked if schedule.due(step) is not None]
        assert len(fired[schedule]) == settings.cuts, cell.name
        assert fired[schedule][-1] == round(settings.stop * steps)
        if settings.guard is not None:
            assert settings.patience <= min(np.diff([*schedule.steps, steps])), cell.name


def near(steps: tuple[int, ...]) -> list[int]:
    return sorted({step + shift for step in steps for shift in (-1, 0, 1)})


@cache
def cutting_settings() -> dict[str, TrainConfig]:
    """One cell for each way to cut, rank rules and sizes apart: they do not decide how often is cut."""
    found: dict[str, tuple[str, TrainConfig]] = {}
    for cell in all_cells():
        settings = cell.config.compression
        if settings.cuts_at_all and settings.schedule == "fixed" and settings.guard is None:
            tokens = cell.config.model.mixer == "mamba"
            key = f"{settings.cuts} {settings.start} {settings.stop} {settings.reduction} {tokens}"
            found.setdefault(key, (cell.name, cell.config))
    return dict(found.values())


@pytest.mark.parametrize("name", cutting_settings())
def test_every_way_to_cut_fires_what_it_advertises(name: str, tmp_path: Path) -> None:
    """Run on toy data, at a size to match: the attempts are counted in what the run wrote."""
    config = cutting_settings()[name]
    settings = config.compression
    small = replace(
        config,
        task="toy" if config.model.mixer != "mamba" else "induction",
        steps=80,
        batch_size=4,
        feedback_noise=0.0,
        validate_every=80,
        checkpoint_every=80,
        model=ModelConfig(model_dim=4, state_dim=8, mixer=config.model.mixer),
        compression=replace(
            settings,
            rank=None if settings.rank is None else 3,
            total=None if settings.total is None else 3,
            track_every=None,
        ),
    )
    splits = load(small.task)
    train(small, RunFolder(tmp_path / "run"), splits=replace(splits, **few(splits)))
    attempts = (tmp_path / "run" / "cuts.jsonl").read_text().splitlines()
    assert len(attempts) == settings.cuts, name


def few(splits: Splits) -> dict[str, Split]:
    """Two splits of 20 sequences, to be scored in no time."""
    return {
        name: replace(split, inputs=split.inputs[:20], targets=split.targets[:20],
                      lengths=None if split.lengths is None else split.lengths[:20])
        for name, split in (("validation", splits.validation), ("test", splits.test))
    }  # fmt: skip


def test_automatic_schedules_are_bounded() -> None:
    automatic = [cell.config for cell in all_cells() if cell.config.compression.schedule == "auto"]
    assert automatic
    for config in automatic:
        schedule = config.compression.make_schedule(config.steps)
        assert isinstance(schedule, AutoSchedule)
        assert schedule.attempts == config.compression.cuts


class CountedSplit(Split):
    """A split that counts how often each of its rows was read."""

    def batch(self, rows: Any) -> Any:
        reads[id(self.inputs)][rows] += 1
        return super().batch(rows)


reads: dict[int, Any] = {}


def test_the_test_set_is_scored_once_and_decides_nothing(tmp_path: Path) -> None:
    splits = load("toy")
    counted = {}
    for name in ("validation", "test"):
        split = getattr(splits, name)
        counted[name] = CountedSplit(split.inputs, split.targets, split.lengths, split.encode, split.pad_to)
        reads[id(split.inputs)] = np.zeros(len(split), dtype=int)
    # Settings that look at a metric as often as any: a target that searches, and a guard.
    compression = CompressionConfig(schedule="auto", target=0.5, guard=1.0, patience=4)
    config = TrainConfig(
        task="toy",
        steps=60,
        batch_size=8,
        validate_every=10,
        model=ModelConfig(model_dim=4, state_dim=8),
        compression=compression,
    )
    train(config, RunFolder(tmp_path / "run"), splits=replace(splits, **counted))
    assert (reads[id(splits.test.inputs)] == 1).all()
    assert (reads[id(splits.validation.inputs)] >= 6).all()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines].count("test") == 1


@pytest.mark.parametrize("task", ["toy", "smnist-mini", "sysid"])
def test_no_sequence_is_validated_and_tested(task: str) -> None:
    splits = load(task)
    sequences = {
        name: {row.tobytes() for row in getattr(splits, name).inputs} for name in ("validation", "test")
    }
    shared = sequences["validation"] & sequences["test"]
    assert len(sequences["test"]) > 50
    assert not shared


TOY: dict[str, Any] = {
    "title": "Toy",
    "about": "a toy",
    "source": "nowhere",
    "figures": ["accuracy", "time", "tracks"],
    "sizes": [3],
    "base": {
        "task": "toy",
        "steps": 40,
        "batch_size": 4,
        "log_every": 10,
        "model": {"model_dim": 4, "state_dim": 6},
        "compression": {"track_every": 20},
    },
    "arms": {
        "full": {},
        "default": {"size": "compression.rank"},
        "taught": {"size": "model.state_dim", "distillation": {"teacher_states": 6}},
        "tau": {"size": "compression.tolerance", "sizes": [0.9]},
    },
    "budgets": {
        "quick": {"minutes": 1, "seeds": [0], "only": ["full", "default", "taught"]},
        "small": {"minutes": 2, "seeds": [0, 1], "base": {"steps": 50}, "arms": {"taught": {"steps": 45}}},
        "paper": {"minutes": 3, "seeds": [0]},
    },
    "published": [
        {"arm": "full", "states": 6, "value": 97.5},
        {"arm": "default", "states": 3, "value": 95.25},
        {"arm": "default", "states": 2, "value": 94.0},
    ],
}


def toy(**changes: Any) -> Reproduction:
    return parse_reproduction("toy", {**TOY, **changes})


def test_budgets_change_what_they_say() -> None:
    quick, small = toy().experiment("quick"), toy().experiment("small")
    assert [arm.name for arm in quick.arms] == ["full", "default", "taught"]
    steps = {cell.arm: cell.config.steps for cell in make_cells(small)}
    assert steps == {"full": 50, "default": 50, "taught": 45, "tau": 50}
    assert toy().experiment("quick", seeds=[4, 5]).seeds == (4, 5)
    short = make_cells(toy().experiment("small", steps=45))[0].config
    assert (short.steps, short.log_every, short.compression.track_every) == (45, 9, 18)
    assert make_cells(toy().experiment("small", steps=2000))[0].config.steps == 50


def test_files_are_checked() -> None:
    with pytest.raises(ValueError, match="unknown key titel; did you mean title"):
        parse_reproduction("toy", {**TOY, "titel": "x"})
    with pytest.raises(ValueError, match=r"published.arm = defualt"):
        toy(published=[{"arm": "defualt", "states": 3, "value": 1.0}])
    with pytest.raises(ValueError, match="budget is missing: small"):
        toy(budgets={"quick": TOY["budgets"]["quick"], "paper": TOY["budgets"]["paper"]})
    with pytest.raises(ValueError, match=r"budgets.quick: a key is missing: seeds"):
        toy(budgets=TOY["budgets"] | {"quick": {"minutes": 1}})
    with pytest.raises(ValueError, match=r"budgets.quick.only: scrach"):
        toy(budgets=TOY["budgets"] | {"quick": {"minutes": 1, "seeds": [0], "only": ["scrach"]}}).experiment(
            "quick"
        )
    with pytest.raises(ValueError, match="there is no table 'nmist'"):
        read_reproduction("nmist")


def test_the_whole_path(tmp_path: Path) -> None:
    experiment = toy().experiment("quick")
    assert run_experiment(experiment, tmp_path) == []
    written = write_reproduction(toy(), experiment, tmp_path)
    assert {path.name for path in written} == {
        f"{name}.{ending}"
        for names, endings in (
            (("paper", "table", "costs"), ("md", "tex")),
            (("accuracy", "time", "tracks"), ("png", "svg")),
        )
        for name in names
        for ending in endings
    }
    records = {record["arm"]: record for record in Results(tmp_path / "results.jsonl").read()}
    # The teacher stays where the next cell finds it, and its time counts.
    assert [path.name[:8] for path in (tmp_path / "teachers").iterdir() if path.is_dir()] == ["teacher-"]
    summary = records["taught"]["summary"]
    assert summary["teacher_seconds"] > 0
    assert summary["total_seconds"] > summary["teacher_seconds"]
    table = paper_table(toy(), list(records.values()))
    assert table is not None
    cells = {row.cells[:2]: row.cells[2:] for row in table.rows}
    score = f"{100 * records['default']['test']['accuracy']:.2f}"
    assert cells["default", "3"] == ("95.2", score, "—", "—", score)
    assert cells["full", "6"][0] == "97.5"
    assert cells["default", "2"] == ("94.0", "—", "—", "—", "—")  # published, not run
    assert cells["taught", "3"][0] == "—"  # run, not published
    costs = (tmp_path / "costs.md").read_text()
    assert "its teacher" in costs
    latex = (tmp_path / "table.tex").read_text()
    assert latex.startswith(r"\begin{tabular}{l")
    assert score in latex
    assert r"test accuracy mean (\%)" in latex


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["reproduce", "list"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in reproduction_names())
    with pytest.raises(SystemExit):
        main(["reproduce", "--help"])
    assert "states-rivals" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", "smnist", "--show", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "no completed run of 'Sequential MNIST'" in capsys.readouterr().err.replace("\n", " ")
