"""The commands as a user types them, in this process, on the toy task."""

import json
from pathlib import Path

import pytest

import compressm
from compressm.cli import main

SMALL = ["--steps", "40", "--batch-size", "16", "--model-dim", "4", "--state-dim", "16", "--log-every", "10"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    main(["train", "toy", *SMALL, "--rank", "4", "--out", str(folder)])
    return folder


def test_train_writes_a_run_and_its_report(run: Path) -> None:
    assert {f.name for f in run.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "cuts.jsonl",
        "model",
        "report.html",
    }
    assert json.loads((run / "config.json").read_text())["compression"]["rank"] == 4
    assert compressm.load(run / "model").state_dims == [4]
    assert "4" in (run / "report.html").read_text()


def test_inspect_shows_sizes_and_tolerances(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(run)])
    shown = capsys.readouterr().out
    assert "blocks.0.mixer" in shown
    assert "τ=0.02" in shown
    assert "█" in shown
    main(["inspect", str(run / "model"), "--realization", "complex"])
    assert "complex form" in capsys.readouterr().out


def test_evaluate_repeats_the_runs_test_score(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (test,) = [score for score in scores if score["kind"] == "test"]
    main(["evaluate", str(run)])
    assert f"test: loss {test['loss']:.4f}, accuracy {test['accuracy']:.2%}" in capsys.readouterr().out
    main(["evaluate", str(run), "--split", "validation"])
    assert "validation: loss" in capsys.readouterr().out


def test_compress_saves_a_smaller_model(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compress", str(run), str(tmp_path / "small"), "--rank", "2"])
    assert compressm.load(tmp_path / "small").state_dims == [2]
    assert compressm.load(run / "model").state_dims == [4]
    assert "4 -> 2 states" in capsys.readouterr().out
    cut = json.loads((tmp_path / "small" / "cut.json").read_text())
    assert cut["layers"][0]["new"] == 2


def test_compress_asks_how_much_to_keep(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compress", str(run), str(run / "small")])
    assert "say how much to keep" in capsys.readouterr().err
    assert not (run / "small").exists()


TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 90


def test_text_is_told_in_bits_by_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input.txt").write_text(TEXT)
    run = tmp_path / "run"
    small = ["--steps", "4", "--batch-size", "2", "--num-layers", "2", "--state-dim", "6", "--log-every", "1"]
    data = ["--data-dir", str(tmp_path)]
    main(["train", "shakespeare", "--mixer", "lru", *small, *data, "--out", str(run)])
    shown = capsys.readouterr().out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (test,) = [line for line in lines if line["kind"] == "test"]
    told = f"loss {test['loss']:.4g}, {test['bits_per_character']:.3f} bits per character, perplexity"
    assert f"test {told}" in shown.replace("\n", " ")
    assert f"{test['bits_per_character']:.3f} test bits per character" in shown
    page = (run / "report.html").read_text()
    assert "test bits per character" in page
    assert "accuracy" not in page
    main(["evaluate", str(run)])
    assert f"test: {told}" in capsys.readouterr().out.replace("\n", " ")
    main(["inspect", str(run)])
    main(["compress", str(run), str(tmp_path / "small"), "--rank", "3"])
    assert compressm.load(tmp_path / "small").state_dims == [3, 3]
    assert f"test {told}" in capsys.readouterr().out.replace("\n", " ")


def test_report_takes_runs_and_folders_of_runs(run: Path, tmp_path: Path) -> None:
    main(["report", str(run), "--out", str(tmp_path / "one.html")])
    main(["report", str(run.parent), "--out", str(tmp_path / "all.html")])
    assert (tmp_path / "one.html").read_text().startswith("<!")
    assert (tmp_path / "all.html").stat().st_size > 1000


def test_demo_trains_three_arms(tmp_path: Path) -> None:
    main(["demo", "--out", str(tmp_path / "demo"), "--steps", "40", "--seeds", "1", "--batch-size", "4"])
    names = {f.name for f in (tmp_path / "demo").iterdir()}
    assert names == {"full-seed0", "compressm-seed0", "scratch-seed0", "report.html"}
    assert compressm.load(tmp_path / "demo" / "full-seed0" / "model").state_dims == [256]
    assert compressm.load(tmp_path / "demo" / "compressm-seed0" / "model").state_dims[0] <= 8
    assert compressm.load(tmp_path / "demo" / "scratch-seed0" / "model").state_dims == [8]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "mnits"], "unknown task 'mnits'; choose one of smnist"),
        (["train", "toy", "--rank", "0"], "rank is 0"),
        (["train", "toy", "--rank", "300"], "has only 256 states"),
        (["train", "toy", "--tolerance", "1.5"], "must be in [0, 1)"),
        (["train", "toy", "--rank", "4", "--fraction", "0.5"], "not rank and fraction"),
        (["train", "smnist", "--data-dir", "nowhere"], "nowhere"),
        (["inspect", "nowhere"], "nowhere is not a saved model"),
        (["evaluate", "nowhere"], "nowhere is not a run"),
        (["compress", "nowhere", "out", "--rank", "4"], "nowhere is not a run"),
        (["train", "sysid", "--mixer", "lru-bi"], "for which there are lru"),
        (["train", "mqar", "--mixer", "mamba", "--num-heads", "2"], "has no such setting"),
        (["resume", "nowhere"], "nowhere is not a run"),
        (["report", "nowhere"], "nowhere"),
        (["demo", "--seeds", "0"], "--seeds is 0"),
    ],
)
def test_bad_input_is_one_clear_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error.replace("\n", " ")
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "toy", "--stpes", "4"])
    assert stopped.value.code == 2
    assert "--stpes" in capsys.readouterr().err


def test_a_damaged_model_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compressm.save(compressm.load(run / "model"), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path)])
    assert "model.safetensors is damaged" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("command", ["demo", "train", "resume", "evaluate", "inspect", "compress", "report"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert command in capsys.readouterr().out
