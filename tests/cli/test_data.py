"""``compressm data`` as a user types it."""

from pathlib import Path

import pytest

from compressm.cli import main
from compressm.data import describe, load, task_names


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPRESSM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")


def test_list_names_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "list"])
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert set(task_names()) <= set(rows)
    assert "generate" in rows["listops"]
    assert "folder" in rows["fsdd"]
    assert "ready" in rows["smnist-mini"]


def test_describe_shows_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "describe", "shakespeare"])
    assert capsys.readouterr().out.split() == describe("shakespeare").split()


def test_fetch_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "fetch", "toy"])
    assert "toy: 384 training, 96 validation and 96 test sequences ready" in capsys.readouterr().out


def test_generated_files_can_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out", str(tmp_path / "made"), "--size", "4", "2", "3", "--workers", "1", "--seed", "5"]
    main(["data", "generate", "listops", *words])
    shown = capsys.readouterr().out
    assert f"compressm train listops --data-dir {tmp_path / 'made'}" in shown
    splits = load("listops", data_dir=tmp_path / "made")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (4, 2, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["describe", "mnits"], "unknown task 'mnits'; choose one of smnist"),
        (["generate", "toy"], "toy is not generated; choose one of listops, listops-short, pathfinder"),
        (["generate", "listops", "--size", "0", "1", "1"], "every part needs at least one sequence"),
        (["fetch", "fsdd"], "give --data-dir a folder with fsdd/train"),
    ],
)
def test_errors_are_one_line_with_a_remedy(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
