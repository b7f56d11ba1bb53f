"""``compressm bench`` from the words of a command line to its files, on shapes of no size."""

import json
from pathlib import Path

import pytest

from compressm.bench import cases, runner, scaling
from compressm.bench.cases import AttentionCase, ClassifierCase, LtiCase, SelectiveCase
from compressm.cli import main


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases, axes and grids of a few steps, and a machine whose memory need not be measured."""
    tiny = (
        ClassifierCase(name="tiny", batch=2, L=8, layers=1, H=2, N=3),
        SelectiveCase(name="tiny-selective", batch=1, L=8, d=2, N=2),
    )
    for case in tiny:
        monkeypatch.setitem(cases.CASES, case.name, case)
    for axis in scaling.AXES:
        monkeypatch.setitem(scaling.AXES, axis, (1, 2))
    monkeypatch.setattr(scaling, "LTI", LtiCase(name="lti_scan", batch=1, L=8, H=2, N=2))
    monkeypatch.setattr(scaling, "SELECTIVE", SelectiveCase(name="selective_scan", batch=1, L=8, d=2, N=2))
    monkeypatch.setattr(runner, "FORM_GRID", [LtiCase(name="grid", batch=1, L=8, H=2, N=2)])
    chunks = [AttentionCase(name="chunks", batch=1, L=8, heads=1, K=2, V=2)]
    monkeypatch.setattr(runner, "CHUNK_GRID", chunks)
    monkeypatch.setattr(runner, "RULE_GRID", chunks)
    monkeypatch.setattr(runner, "bandwidth", lambda _: 1e10)
    monkeypatch.setattr("compressm.bench.timing.PAUSE", 0.0)


def read(folder: Path) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads((folder / "bench.json").read_text())
    return found


def test_named_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--cases", "tiny", "tiny-selective", "--no-peers", "--no-memory", "--rounds", "1", "--bf16"]
    main(["bench", *words, "--threads", "1", "--out", str(tmp_path)])
    found = read(tmp_path)
    assert [case["case"]["name"] for case in found["cases"]] == ["tiny", "tiny-selective"]
    names = [one["name"] for one in found["cases"][0]["measured"]]
    assert names == ["compressm", "compressm bf16"]
    assert found["scaling"] == []
    assert {file.name for file in tmp_path.iterdir()} == {"bench.json", "steps.png"}
    shown = capsys.readouterr().out
    assert "tiny-selective" in shown
    assert "PyTorch on 1 thread," in shown.replace("\n", " ")


def test_scaling_and_grid_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "--scaling", "--grid", "--quick", "--cpu-time", "--threads", "1", "--out", str(tmp_path)])
    found = read(tmp_path)
    assert found["cases"] == []
    assert len(found["scaling"]) == 2 * len(scaling.AXES)
    assert [choice["shape"] for choice in found["forms"]] == ["grid: batch 1, L=8, H=2, N=2"]
    assert len(found["chunks"]) == 2
    assert found["method"]["clock"] == "processor time"
    shown = capsys.readouterr().out
    assert "lti_scan against L" in shown
    assert "linear attention and the delta rule" in shown


def test_calibration_is_kept_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "calibrate", lambda: {"scan/training": [1.0, 2.0]})
    main(["bench", "--calibrate", "--threads", "1", "--out", str(tmp_path)])
    assert read(tmp_path)["constants"] == {"scan/training": [1.0, 2.0]}
    assert "the cost model's constants of this machine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cases", "mnist"], "unknown case 'mnist'"),
        (["--cases", "tiny", "--dropout", "1"], "dropout is 1.0"),
        (["--cases", "tiny", "--threads", "0"], "threads is 0"),
        (["--cases", "tiny", "--rounds", "0"], "rounds is 0"),
        (["--scaling", "--form", "fast"], "fast"),
    ],
)
def test_bad_options_are_one_clear_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *words, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_help_names_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for name in cases.CASES:
        assert name in shown or name.startswith("tiny")
