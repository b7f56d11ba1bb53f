"""The results page: its figures and its verdicts, from results made up for it."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from compressm.training import ModelConfig, TrainConfig

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def page() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DOCS))
    try:
        yield importlib.import_module("make_results")
    finally:
        sys.path.remove(str(DOCS))


def record(arm: str, size: int | None, seed: int, accuracy: float) -> dict[str, Any]:
    config = TrainConfig(task="toy", arm=arm, seed=seed, model=ModelConfig(state_dim=size or 64)).to_dict()
    return {
        "hash": f"{arm}{size}{seed}",
        "status": "done",
        "cell": f"{arm}-{size}-seed{seed}",
        "arm": arm,
        "size": size,
        "seed": seed,
        "config": config,
        "version": "0.1.0",
        "torch": "2",
        "machine": {"processor": "abacus", "cores": 2},
        "threads": 1,
        "validation": {"step": 9, "loss": 1.0, "accuracy": 0.5},
        "test": {"step": 9, "loss": 1.0, "accuracy": accuracy},
        "summary": {"parameters": 5, "states": [size or 64], "total_seconds": 60.0,
                    "step_seconds_after": 0.02},
        "cuts": [],
    }  # fmt: skip


def write(folder: Path, scores: dict[tuple[str, int | None], tuple[float, ...]]) -> None:
    folder.mkdir()
    lines = [
        record(arm, size, seed, accuracy)
        for (arm, size), accuracies in scores.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_scores_and_verdicts(tmp_path: Path, page: ModuleType) -> None:
    results = tmp_path / "results"
    results.mkdir()
    write(
        results / "first",
        {
            ("default", 8): (0.90, 0.92),
            ("scratch", 8): (0.70, 0.74),
            ("published", 8): (0.90, 0.91),
            ("full", None): (0.93, 0.95),
            ("late", 8): (0.95, 0.97),
        },
    )
    # A comparison without a default of its own is judged by that of one with equal settings.
    write(results / "second", {("random", 8): (0.88, 0.94), ("modal", 8): (0.60, 0.61)})
    (results / "first" / "accuracy.png").write_bytes(b"")
    (results / "oneshot").mkdir()
    (results / "oneshot" / "table.md").write_text("| its own | table |\n")
    (tmp_path / "docs").mkdir()
    picture = tmp_path / "docs" / "results.png"
    comparisons, others = page.read_all(results)
    page.draw_overview(comparisons, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.make_page(comparisons, others, picture)
    assert "](results.png)" in text
    row = next(line for line in text.splitlines() if line.startswith("| first |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:] == ["8", "91.00 ± 1.41", "90.50 ± 0.71", "72.00 ± 2.83", "94.00 ± 1.41", "+19.00"]
    limits = text.partition("## Where it does not help")[2].partition("## Every")[0]
    ahead, _, undecided = limits.partition("Rivals that the default leads by less")
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in ahead.splitlines()]
    assert ["first", "8", "late", "96.00 ± 1.41", "91.00 ± 1.41", "5.00", "yes"] in found
    assert "published" not in ahead
    assert "- first: *published* at 8." in undecided
    assert "- second: *random* at 8." in undecided
    assert "scratch" not in limits
    assert "modal" not in limits
    assert "95.00 97.00" in text  # every seed
    assert "abacus, 1 thread a run" in text
    assert "![first: accuracy](../results/first/accuracy.png)" in text
    assert "| its own | table |" in text
    assert "### Cuts of trained models without retraining" in text


def test_free_runs_are_compared_too(tmp_path: Path, page: ModuleType) -> None:
    """A robot that foretells single steps worse may yet run further by itself."""
    results = tmp_path / "results"
    results.mkdir()
    write(results / "arm", {("default", 8): (0.9, 0.9), ("scratch", 8): (0.9, 0.9), ("full", None): (0.9,)})
    file = results / "arm" / "results.jsonl"
    errors = iter((0.12, 0.14, 0.2, 0.1, 0.11))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["test"]["rollout"] = next(errors)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "docs").mkdir()
    text = page.make_page(*page.read_all(results), tmp_path / "docs" / "results.png")
    row = next(line for line in text.splitlines() if line.startswith("| arm (free runs) |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == ["error of free runs", "8", "0.1300 ± 0.0141"]
    assert cells[-1] == "-0.0200"
    assert "- arm (free runs): *scratch* at 8." in text


def test_the_committed_results_make_a_page(page: ModuleType) -> None:
    committed = DOCS.parent / "experiments" / "results"
    text = page.make_page(*page.read_all(committed), DOCS / "results.png")
    assert text == (DOCS / "results.md").read_text(encoding="utf-8"), "run docs/make_results.py once more"
    for folder in committed.iterdir():
        file = folder / "results.jsonl"
        if file.is_file():
            first = json.loads(file.read_text().splitlines()[0])
            if first.get("status") == "done" and first["config"]["task"] == "smnist":
                assert f"{100 * first['test']['accuracy']:.2f}" in text
    assert text.count("../experiments/results/") >= 2
