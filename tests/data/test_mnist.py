import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from compressm.data import DataError, Splits, load
from compressm.data.mnist import permutation

Pixels = dict[str, tuple[np.ndarray, np.ndarray]]
WriteShard = Callable[[Path, list[bytes], list[int]], None]
Png = Callable[[np.ndarray], bytes]


def rows(*splits: tuple[np.ndarray, np.ndarray]) -> list[tuple[bytes, int]]:
    return sorted(
        (image.tobytes(), int(label))
        for images, labels in splits
        for image, label in zip(images, labels, strict=True)
    )


def check(splits: Splits, pixels: Pixels) -> None:
    train, validation = splits.train, splits.validation
    assert (len(train), len(validation)) == (36, 4)
    assert rows((train.inputs, train.targets), (validation.inputs, validation.targets)) == rows(
        pixels["train"]
    )
    images, labels = pixels["test"]
    assert np.array_equal(splits.test.targets, labels)
    expected = images.reshape(-1, 784, 1).astype(np.float32) / np.float32(255)
    assert np.array_equal(splits.test.batch(slice(None)).inputs.numpy(), expected)


@pytest.mark.parametrize("inside", ["", "mnist"])
def test_images_are_read_from_either_folder(inside: str, mnist_folder: Path, pixels: Pixels) -> None:
    check(load("smnist", data_dir=mnist_folder / inside), pixels)


def test_a_folder_below_home_may_be_given_by_its_tilde(
    mnist_folder: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(mnist_folder.parent))
    check(load("smnist", data_dir=f"~/{mnist_folder.name}"), pixels)


def test_the_cached_splits_are_the_same_and_need_no_decoder(
    mnist_folder: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("smnist", data_dir=mnist_folder)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    check(load("smnist", data_dir=str(mnist_folder)), pixels)


def test_several_shards_are_read_in_order(
    mnist_folder: Path, pixels: Pixels, png: Png, write_shard: WriteShard
) -> None:
    folder = mnist_folder / "mnist"
    (folder / "test-00000-of-00001.parquet").unlink()
    images, labels = pixels["test"]
    for shard, part in enumerate((slice(0, 6), slice(6, None))):
        path = folder / f"test-0000{shard}-of-00002.parquet"
        write_shard(path, [png(image) for image in images[part]], labels[part].tolist())
    check(load("smnist", data_dir=mnist_folder), pixels)
    (folder / "test-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"not the whole set of 2: found test-00001-of-00002\.parquet"):
        load("smnist", data_dir=mnist_folder)


def test_a_missing_file_is_named_with_its_remedy(mnist_folder: Path, tmp_path: Path) -> None:
    (mnist_folder / "mnist" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"no file .*mnist.test-\*\.parquet or .*; give --data-dir"):
        load("smnist", data_dir=mnist_folder)
    with pytest.raises(DataError, match=r"no file .*nowhere.*; give --data-dir"):
        load("smnist", data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", "cut"])
def test_a_damaged_file_is_named_with_its_remedy(content: bytes | str, mnist_folder: Path) -> None:
    path = mnist_folder / "mnist" / "train-00000-of-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet is damaged .*; delete it and fetch"):
        load("smnist", data_dir=mnist_folder)


def test_a_damaged_image_is_named_with_its_row(mnist_folder: Path, png: Png, write_shard: WriteShard) -> None:
    path = mnist_folder / "mnist" / "train-00000-of-00001.parquet"
    good = png(np.zeros((28, 28), np.uint8))
    for bad in (b"", b"not an image", good[:45], good[:-30]):
        write_shard(path, [good, bad], [1, 2])
        with pytest.raises(DataError, match=r"the image in row 1 of .*train-.* cannot be decoded"):
            load("smnist", data_dir=mnist_folder)


@pytest.mark.parametrize("shape", [(28, 27), (32, 32), (28, 28, 3)])
def test_an_image_of_another_shape_is_refused(
    shape: tuple[int, ...], mnist_folder: Path, png: Png, write_shard: WriteShard
) -> None:
    path = mnist_folder / "mnist" / "train-00000-of-00001.parquet"
    write_shard(path, [png(np.zeros(shape, np.uint8))], [1])
    with pytest.raises(DataError, match=r"row 0 of .* image of size .*, expected \('L', \(28, 28\)\)"):
        load("smnist", data_dir=mnist_folder)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"img": [b"x"], "label": [1]}, "has no column image, only img, label"),
        ({"image": [b"x"], "label": [1]}, "column image of .* is binary, expected struct"),
        ({"image": [{"bytes": b"x"}], "label": [10]}, r"has labels 10\.\.10, expected 0\.\.9"),
        ({"image": [{"bytes": b"x"}], "label": [-1]}, r"has labels -1\.\.-1, expected 0\.\.9"),
        ({"image": [{"bytes": b"x"}], "label": ["seven"]}, "is damaged or not the hub's layout"),
        ({"image": [{"bytes": b"x"}, {"bytes": b"x"}], "label": [1, None]}, "is damaged or not the hub's"),
    ],
)
def test_columns_of_another_layout_are_refused(
    columns: dict[str, list[object]], words: str, mnist_folder: Path
) -> None:
    parquet.write_table(pyarrow.table(columns), mnist_folder / "mnist" / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match=words):
        load("smnist", data_dir=mnist_folder)


def test_a_file_without_rows_is_refused(mnist_folder: Path, write_shard: WriteShard) -> None:
    write_shard(mnist_folder / "mnist" / "train-00000-of-00001.parquet", [], [])
    with pytest.raises(DataError, match="has no rows"):
        load("smnist", data_dir=mnist_folder)


@pytest.mark.parametrize(("module", "package"), [("pyarrow", "pyarrow"), ("PIL", "pillow")])
def test_a_missing_extra_is_named(
    module: str, package: str, mnist_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}; .* pip install 'compressm\[data\]'"):
        load("smnist", data_dir=mnist_folder)


def test_permuted_pixels_are_the_same_pixels_in_one_order(mnist_folder: Path) -> None:
    plain, permuted = (load(name, data_dir=mnist_folder) for name in ("smnist", "psmnist"))
    order = np.array(permutation())
    assert sorted(order) == list(range(784))
    for part in ("train", "validation", "test"):
        before, after = (getattr(splits, part).batch(slice(None)) for splits in (plain, permuted))
        assert np.array_equal(before.targets, after.targets)
        assert np.array_equal(before.inputs.numpy()[:, order], after.inputs.numpy())


def test_the_permutation_does_not_change_between_releases() -> None:
    assert permutation()[:8] == (319, 576, 323, 107, 355, 716, 197, 20)
    # A random order leaves about one of the pixels in its place.
    assert np.sum(np.array(permutation()) == np.arange(784)) < 8
