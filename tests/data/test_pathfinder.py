from pathlib import Path

import numpy as np
import pytest

from compressm.data import DataError, Recipe, get_task, load
from compressm.data.pathfinder import geometry
from compressm.data.pathfinder.generate import FILES, make_images

SIZES = (30, 6, 5)
generate = get_task("pathfinder").generator
assert generate is not None


def seeds(count: int) -> np.ndarray:
    return np.random.RandomState(4).randint(0, 2**62, size=count).astype(np.uint64)


def place(seed: int, long: int = 14) -> np.ndarray:
    dashes = np.full((2 * long + geometry.IN_DISTRACTORS, 3), np.nan)
    count = geometry.place_dashes(np.array([seed], np.uint64), dashes, long)
    return dashes[:count]


def points(dashes: np.ndarray) -> np.ndarray:
    """Beginning, middle and end of each dash, ``(count, 3, 2)``."""
    along = np.linspace(0.0, geometry.DASH, 3)[None, :, None]
    direction = np.stack((np.cos(dashes[:, 2]), np.sin(dashes[:, 2])), axis=1)[:, None, :]
    return dashes[:, None, :2] + along * direction


@pytest.mark.parametrize(("long", "dashes_each"), [(14, 4), (6, 2)])
@pytest.mark.parametrize("seed", range(12))
def test_contours_keep_their_distances(seed: int, long: int, dashes_each: int) -> None:
    dashes = place(seed, long)
    short = (len(dashes) - 2 * long) // dashes_each
    assert len(dashes) == 2 * long + dashes_each * short
    assert short <= 20 // dashes_each
    contour = np.array([0, 1] * long + [2 + number // dashes_each for number in range(dashes_each * short)])
    ends = points(dashes)
    assert ends.min() >= geometry.BORDER
    assert ends.max() <= geometry.SIZE - geometry.BORDER
    assert np.isclose(np.hypot(*(ends[0, 0] - ends[1, 0])), 7.0)
    gaps = np.linalg.norm(ends[:, None, :, None] - ends[None, :, None, :], axis=-1).min(axis=(2, 3))
    other = contour[:, None] != contour[None, :]
    assert gaps[other].min() >= geometry.CLEARANCE
    for number in range(2 + short):
        own = dashes[contour == number]
        turn = np.angle(np.exp(1j * np.diff(own[:, 2])))
        assert np.abs(turn).max() < np.pi / 2
        # Half the gap in the old direction and half in the new one.
        steps = points(own)[1:, 0] - points(own)[:-1, 2]
        assert np.allclose(np.hypot(*steps.T), geometry.GAP * np.cos(turn / 2))


def test_random_numbers_are_those_of_splitmix64() -> None:
    # The first outputs for the state 1234567, as published with the generator, as 53-bit fractions.
    state = np.array([1234567], np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [geometry.uniform(state) for _ in expected] == [(number >> 11) / 2**53 for number in expected]


def brightest_dots(image: np.ndarray) -> list[tuple[int, int]]:
    """The two places whose 3x3 neighbourhoods are brightest; dashes are too thin to fill one."""
    window = np.lib.stride_tricks.sliding_window_view(image.astype(int), (3, 3)).sum(axis=(2, 3))
    found = []
    for _ in range(2):
        row, column = np.unravel_index(window.argmax(), window.shape)
        found.append((int(row) + 1, int(column) + 1))
        window[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = 0
    return found


@pytest.mark.parametrize("long", [14, 6])
def test_dots_are_the_ends_that_the_label_says(long: int) -> None:
    images, labels = make_images(np.arange(40, dtype=np.uint64), long)
    assert 8 < labels.sum() < 32
    right = 0
    for seed, (image, label) in enumerate(zip(images, labels, strict=True)):
        ends = points(place(seed, long))
        joined = ends[2 * long - 2, 2] if label else ends[2 * long - 1, 2]
        wanted = {tuple(np.floor(point[::-1]).astype(int)) for point in (ends[0, 0], joined)}
        found = brightest_dots(image)
        right += all(min(abs(r - a) + abs(c - b) for r, c in found) <= 1 for a, b in wanted)
    # Two dots that overlap, or a dot among dashes, may look like another.
    assert right >= 34


def test_files_are_the_images_of_the_seed_for_any_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 3):
        recipe = Recipe(sizes=SIZES, seed=8, workers=workers, progress=False)
        generate(tmp_path / str(workers), recipe)
    one, three = (load("pathfinder", data_dir=tmp_path / str(workers)) for workers in (1, 3))
    for number, part in enumerate(("train", "validation", "test")):
        split, again = getattr(one, part), getattr(three, part)
        assert len(split) == SIZES[number]
        expected, labels = make_images(
            np.random.SeedSequence((8, number)).generate_state(len(split), np.uint64)
        )
        assert np.array_equal(split.inputs.reshape(-1, 32, 32), expected)
        assert np.array_equal(split.targets, labels)
        assert np.array_equal(split.inputs, again.inputs)
    batch = one.test.batch(slice(None))
    assert tuple(batch.inputs.shape) == (5, 1024, 1)
    assert batch.inputs.max() == 1.0


def test_short_contours_are_read_row_by_row_from_a_folder_of_their_own(tmp_path: Path) -> None:
    make = get_task("pathfinder-short").generator
    assert make is not None
    make(tmp_path, Recipe(sizes=SIZES, seed=8, progress=False))
    splits = load("pathfinder-short", data_dir=tmp_path)
    expected, labels = make_images(np.random.SeedSequence((8, 2)).generate_state(5, np.uint64), 6)
    assert np.array_equal(splits.test.inputs, expected)
    assert np.array_equal(splits.test.targets, labels)
    assert tuple(splits.test.batch(slice(None)).inputs.shape) == (5, 32, 32)
    with pytest.raises(DataError, match="compressm data generate pathfinder --out DIR"):
        load("pathfinder", data_dir=tmp_path)


def test_a_changed_or_missing_file_is_noticed(tmp_path: Path) -> None:
    generate(tmp_path, Recipe(sizes=(2, 1, 1), progress=False))
    path = tmp_path / "pathfinder" / FILES[2]
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"test-.*parquet does not match its checksum"):
        load("pathfinder", data_dir=tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"no file .*test-.*compressm data generate pathfinder --out DIR"):
        load("pathfinder", data_dir=tmp_path / "pathfinder")


def test_images_differ_and_half_are_joined() -> None:
    images, labels = make_images(seeds(300))
    assert len({image.tobytes() for image in images}) == 300
    assert 120 < labels.sum() < 180
    # Neither brightness nor the dots' distance to the border tells the label.
    means = [images[labels == label].mean() for label in (0, 1)]
    assert abs(means[0] - means[1]) < 0.03 * images.mean()
