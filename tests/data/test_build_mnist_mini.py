"""The script that makes the packaged images, run on a small folder in the hub's layout."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from compressm.data import mnist_mini

SCRIPT = Path(__file__).parents[2] / "tools" / "build_mnist_mini.py"
PER_DIGIT = {"train": 9, "validation": 1, "test": 2}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_mnist_mini", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PER_DIGIT", PER_DIGIT)
    return module


def run(script: ModuleType, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    out.mkdir()
    monkeypatch.setattr(sys, "argv", ["build_mnist_mini.py", str(folder), "--out", str(out)])
    script.main()
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_script_gives_the_same_bytes_which_the_reader_takes(
    script: ModuleType,
    tmp_path: Path,
    png: Callable[[np.ndarray], bytes],
    write_shard: Callable[[Path, list[bytes], list[int]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The image in row r of the training set is all r, that of the test set all 255 - r; row r shows r mod 10.
    for part, count in (("train", 200), ("test", 50)):
        values = np.arange(count) if part == "train" else 255 - np.arange(count)
        images = [png(np.full((28, 28), value, np.uint8)) for value in values]
        labels = (np.arange(count) % 10).tolist()
        write_shard(tmp_path / "data" / f"{part}-00000-of-00001.parquet", images, labels)
    written = run(script, tmp_path / "data", tmp_path / "one", monkeypatch)
    assert set(written) == {mnist_mini.IMAGES, mnist_mini.MANIFEST}
    assert run(script, tmp_path / "data", tmp_path / "two", monkeypatch) == written

    monkeypatch.setattr(mnist_mini, "files", lambda _: tmp_path / "one")
    splits = mnist_mini.load_mnist_mini()
    # 20 training images a digit: every second is taken, the last of the ten for validation.
    digits = np.arange(10)
    taken = 20 * np.arange(10)[:, None] + digits
    assert splits.train.inputs[:, 0, 0].tolist() == taken[:9].ravel().tolist()
    assert splits.validation.inputs[:, 0, 0].tolist() == taken[9].tolist()
    # 5 test images a digit, of which numbers 0 and 2 are taken.
    assert splits.test.inputs[:, 0, 0].tolist() == [*(255 - digits), *(235 - digits)]
    assert splits.test.targets.tolist() == [*digits, *digits]
    assert (splits.train.inputs == splits.train.inputs[:, :1]).all()


def test_a_digit_with_too_few_images_is_noticed(script: ModuleType) -> None:
    with pytest.raises(ValueError, match="digit 3 has 4 images, 5 are wanted"):
        script.spread(np.zeros((4, 28, 28), np.uint8), np.full(4, 3), 3, 5)
