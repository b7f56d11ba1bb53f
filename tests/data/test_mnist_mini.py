import shutil
from pathlib import Path

import numpy as np
import pytest

from compressm.data import DataError, Splits, load, mnist_mini

FOLDER = Path(mnist_mini.__file__).parent


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load("smnist-mini")


def test_every_split_is_balanced_and_so_is_every_prefix(splits: Splits) -> None:
    for split, each in ((splits.train, 1575), (splits.validation, 175), (splits.test, 400)):
        assert np.bincount(split.targets).tolist() == [each] * 10
        assert sorted(split.targets[:10]) == list(range(10))


def test_pixels_are_the_originals(splits: Splits) -> None:
    # The first image of MNIST's training set is a 5, that of its test set a 7; sums of the original pixels.
    assert splits.train.targets[5] == 5
    assert int(splits.train.inputs[5].sum(dtype=np.int64)) == 27_525
    assert splits.test.targets[7] == 7
    assert int(splits.test.inputs[7].sum(dtype=np.int64)) == 18_454


def test_images_belong_to_their_labels(splits: Splits) -> None:
    """The nearest class mean knows 82 % of MNIST's test images; shuffled labels would give 10 %."""
    train, test = (split.inputs[:, :, 0].astype(np.float32) for split in (splits.train, splits.test))
    means = np.stack([train[splits.train.targets == digit].mean(axis=0) for digit in range(10)])
    distances = (means**2).sum(axis=1) - 2 * test @ means.T
    assert 0.78 < np.mean(distances.argmin(axis=1) == splits.test.targets) < 0.86


def test_the_package_stays_small_and_carries_the_licence() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir() if path.is_file()}
    assert sum(sizes.values()) < 3_000_000
    licence = (FOLDER / "LICENSE").read_text(encoding="utf-8")
    for word in ("Yann LeCun", "Corinna Cortes", "CC BY-SA 3.0", "1,575", "175", "400"):
        assert word in licence


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_package_is_noticed(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (mnist_mini.IMAGES, mnist_mini.MANIFEST):
        shutil.copy(FOLDER / name, tmp_path / name)
    images = tmp_path / mnist_mini.IMAGES
    if damage == "missing":
        images.unlink()
    else:
        data = bytearray(images.read_bytes())
        data[1000] ^= 1
        images.write_bytes(data)
    monkeypatch.setattr(mnist_mini, "files", lambda _: tmp_path)
    with pytest.raises(DataError, match=rf"{mnist_mini.IMAGES} is .*; install compressm again"):
        mnist_mini.load_mnist_mini()
