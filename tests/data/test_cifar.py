from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compressm.data import DataError, get_task, load

MEAN, STD = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])


@pytest.fixture
def folder(tmp_path: Path, png: Callable[[np.ndarray], bytes], write_shard: Callable[..., None]) -> Path:
    random = np.random.RandomState(5)
    for part, count in (("train", 30), ("test", 8)):
        images = random.randint(0, 256, size=(count, 32, 32, 3)).astype(np.uint8)
        np.save(tmp_path / f"{part}.npy", images)
        path = tmp_path / "data" / "cifar10" / f"{part}-00000-of-00001.parquet"
        write_shard(path, [png(image) for image in images], (np.arange(count) % 10).tolist(), "img")
    return tmp_path


@pytest.mark.parametrize("name", ["scifar", "scifar-grey", "cifar-rows"])
def test_images_become_sequences(name: str, folder: Path) -> None:
    splits, task = load(name, data_dir=folder / "data"), get_task(name)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (27, 3, 8)
    pixels = np.load(folder / "test.npy") / 255
    if name == "scifar-grey":
        expected = (pixels @ [0.299, 0.587, 0.114] - 0.4809) / 0.2392
    else:
        expected = (pixels - MEAN) / STD
    batch = splits.test.batch(slice(None))
    assert tuple(batch.inputs.shape) == (8, task.length, task.input_dim)
    assert np.allclose(batch.inputs.numpy(), expected.reshape(batch.inputs.shape), atol=1e-5)
    assert batch.targets.tolist() == list(range(8))


def test_the_three_tasks_share_one_copy_and_one_choice_of_validation(folder: Path) -> None:
    chosen = [
        load(name, data_dir=folder / "data" / "cifar10").validation
        for name in ("scifar", "scifar-grey", "cifar-rows")
    ]
    assert len({split.inputs.tobytes() for split in chosen}) == 1
    assert len(list((folder / "cache" / "arrays").iterdir())) == 2


def test_grey_images_are_not_cifar(
    folder: Path, png: Callable[[np.ndarray], bytes], write_shard: Callable[..., None]
) -> None:
    path = folder / "data" / "cifar10" / "test-00000-of-00001.parquet"
    write_shard(path, [png(np.zeros((32, 32), np.uint8))], [1], "img")
    with pytest.raises(DataError, match=r"row 0 of .*test-.* is a L image .* expected \('RGB', \(32, 32\)\)"):
        load("scifar", data_dir=folder / "data")
