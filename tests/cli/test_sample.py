"""``compressm sample`` writes sounds that begin with true ones, repeatably."""

import io
import wave
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from compressm.cli.main import main
from compressm.data.mu_law import from_mu_law, mu_law

RATE = 8000


def _recording(seed: int) -> bytes:
    random = np.random.RandomState(seed)
    tone = 8000 * np.sin(np.arange(1200) * (0.1 + 0.01 * seed)) + 300 * random.randn(1200)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(tone.astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    folder = root / "data" / "fsdd"
    folder.mkdir(parents=True)
    for part, first in (("train", 5), ("test", 0)):
        rows = [{"bytes": _recording(first + row), "path": "x.wav"} for row in range(20)]
        table = {"audio": rows, "label": [row % 10 for row in range(20)]}
        table["index"] = [first + row % 5 for row in range(20)]
        parquet.write_table(pyarrow.table(table), folder / f"{part}-00000-of-00001.parquet")
    main(
        f"train fsdd-mulaw --data-dir {root}/data --out {root}/run --steps 3 --batch-size 2 --model-dim 8 "
        "--state-dim 8 --device cpu".split()
    )
    return root / "run"


def _samples(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_sounds_begin_with_a_true_one_and_repeat(run: Path, tmp_path: Path) -> None:
    settings = ["--count", "2", "--seconds", "0.01", "--prompt-seconds", "0.02"]
    first, second, other = tmp_path / "first", tmp_path / "second", tmp_path / "other"
    for out, seed in ((first, "1"), (second, "1"), (other, "2")):
        main(["sample", str(run), str(out), *settings, "--seed", seed])
    true = np.concatenate([np.frombuffer(_recording(row)[44:], "<i2") for row in range(20)])
    true = from_mu_law(mu_law(true))
    for index in range(2):
        sound = _samples(first / f"sample-{index}.wav")
        assert len(sound) == 80 + 160
        windows = np.lib.stride_tricks.sliding_window_view(true, 160)
        assert np.any(np.all(windows == sound[:160], axis=1))
        assert np.array_equal(sound, _samples(second / f"sample-{index}.wav"))
    assert not np.array_equal(_samples(first / "sample-0.wav"), _samples(other / "sample-0.wav"))
    assert (first / "waves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--count", "0"], "count is 0"),
        (["--seconds", "0"], "at least one sample of 1/8000 s"),
        (["--temperature", "-1"], "temperature"),
        (["--prompt-seconds", "100"], "prompt_seconds asks for 800000"),
    ],
)
def test_bad_settings_are_named_and_nothing_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["sample", str(run), str(tmp_path / "out"), "--seconds", "0.01", *more])
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_task_without_sound_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            "train",
            "toy",
            "--out",
            str(tmp_path / "run"),
            "--steps",
            "2",
            "--state-dim",
            "4",
            "--device",
            "cpu",
        ]
    )
    with pytest.raises(SystemExit):
        main(["sample", str(tmp_path / "run"), str(tmp_path / "out")])
    assert "toy, which is no sound" in " ".join(capsys.readouterr().err.split())
