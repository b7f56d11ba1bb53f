"""IMDB and Shakespeare: small texts in the files' own layout."""

from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from compressm.data import DataError, get_task, load, shakespeare
from compressm.data.characters import Alphabet, code_points, frequent_characters, windows


def write_reviews(folder: Path, part: str, texts: list[str], labels: list[int]) -> Path:
    path = folder / "imdb" / f"{part}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"text": texts, "label": labels}), path)
    return path


@pytest.fixture
def reviews(tmp_path: Path) -> dict[str, list[str]]:
    """Reviews of the letters a-e; é occurs 14 times in training, 🎬 15 times."""
    random = np.random.RandomState(2)
    made = {}
    for part, count in (("train", 20), ("test", 6)):
        made[part] = ["".join(random.choice(list("abcde "), size=n)) for n in random.randint(200, 900, count)]
    made["train"][0] += "é" * 14 + "🎬" * 14
    made["train"][7] += "🎬"
    made["test"][1] = "aébZ🎬"
    made["test"][2] = "ab" * 3000
    for part, texts in made.items():
        write_reviews(tmp_path, part, texts, [row % 2 for row in range(len(texts))])
    return made


def test_reviews_become_the_characters_of_the_training_set(
    reviews: dict[str, list[str]], tmp_path: Path
) -> None:
    splits = load("imdb", data_dir=tmp_path)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 2, 6)
    alphabet = dict(zip(" abcde🎬", range(2, 9), strict=True))
    batch = splits.test.batch(slice(None))
    assert batch.lengths is not None
    assert batch.lengths[1:3].tolist() == [5, 4096]
    assert tuple(batch.inputs.shape) == (6, 4096, get_task("imdb").input_dim)
    assert batch.targets.tolist() == [0, 1, 0, 1, 0, 1]
    for row, text in enumerate(reviews["test"]):
        expected = [alphabet.get(character, 1) for character in text[:4096]]
        assert batch.inputs[row].argmax(dim=1)[: len(expected)].tolist() == expected
    assert (batch.inputs.sum(dim=2) == 1).all()


@pytest.mark.usefixtures("reviews")
def test_short_reviews_make_short_batches(tmp_path: Path) -> None:
    assert load("imdb", data_dir=tmp_path).test.batch(np.array([1])).inputs.shape[1] == 64


def test_streams_hold_every_review_of_their_part_once(reviews: dict[str, list[str]], tmp_path: Path) -> None:
    splits = load("imdb-text", data_dir=tmp_path)
    alphabet = Alphabet(code_points(" abcde🎬"), 135)
    streams = {}
    for part in ("train", "validation", "test"):
        split = getattr(splits, part)
        # Input and target of a step are neighbours in one text.
        assert np.array_equal(split.inputs.ravel()[1:], split.targets.ravel()[:-1])
        streams[part] = np.append(split.inputs.ravel(), split.targets.ravel()[-1]).tobytes()
    whole = b"".join(alphabet.encode(text).tobytes() + b"\0" for text in reviews["test"])
    assert whole.startswith(streams["test"])
    assert len(whole) - len(streams["test"]) < 1024
    found = {
        part: {row for row, text in enumerate(reviews["train"]) if alphabet.encode(text).tobytes() in stream}
        for part, stream in streams.items()
    }
    assert not found["train"] & found["validation"]
    # The ends that fill no window are left out.
    assert len(found["train"]) >= 14
    batch = splits.train.batch(slice(0, 1))
    assert tuple(batch.inputs.shape) == (1, 1024, 135)
    assert tuple(batch.targets.shape) == (1, 1024)


def test_an_alphabet_that_is_too_large_is_refused(tmp_path: Path) -> None:
    everything = "".join(map(chr, range(200, 400))) * 15
    write_reviews(tmp_path, "train", [everything, "b"], [0, 1])
    write_reviews(tmp_path, "test", ["a"], [1])
    with pytest.raises(DataError, match="200 different characters, 133 are known to this task"):
        load("imdb", data_dir=tmp_path)


@pytest.mark.parametrize(("texts", "words"), [(["a", ""], "row 1 of .* has no text"), ([1, 2], "is int64")])
def test_what_is_no_review_is_refused(texts: list[str], words: str, tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_reviews(tmp_path, part, texts, [0, 1])
    with pytest.raises(DataError, match=words):
        load("imdb", data_dir=tmp_path)


def test_frequent_characters_are_counted_over_all_texts() -> None:
    texts = ["ab", "b🎬", "\ud800b"] * 700
    assert frequent_characters(texts, 701).tolist() == [ord("b")]
    assert frequent_characters(texts, 700).tolist() == [ord("a"), ord("b"), 0xD800, ord("🎬")]


def test_a_text_shorter_than_a_window_is_refused() -> None:
    assert len(windows(np.zeros(9, np.uint8), 4, 5)) == 2
    with pytest.raises(DataError, match="a text of 4 characters is shorter than one window of 4"):
        windows(np.zeros(4, np.uint8), 4, 5)


def write_play(folder: Path, text: str) -> str:
    (folder / "tinyshakespeare").mkdir()
    (folder / "tinyshakespeare" / "input.txt").write_text(text, encoding="utf-8")
    return text


@pytest.mark.parametrize("inside", ["", "tinyshakespeare"])
def test_the_plays_are_cut_in_order(inside: str, tmp_path: Path) -> None:
    random = np.random.RandomState(1)
    text = write_play(tmp_path, "".join(random.choice(list("abc \n"), size=8000)))
    splits = load("shakespeare", data_dir=tmp_path / inside)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (28, 1, 1)
    ids = [2 + "\n abc".index(character) for character in text]
    assert splits.train.inputs.ravel().tolist() == ids[: 28 * 256]
    assert splits.validation.inputs.ravel().tolist() == ids[7200 : 7200 + 256]
    assert splits.test.targets.ravel().tolist() == ids[7601 : 7601 + 256]


def test_missing_and_damaged_plays_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*input\.txt or .*; give --data-dir the folder"):
        load("shakespeare", data_dir=tmp_path)
    write_play(tmp_path, "x")
    (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(b"\xff\xfe" * 3000)
    with pytest.raises(DataError, match=r"input\.txt is damaged .*; fetch it again"):
        load("shakespeare", data_dir=tmp_path)
    with pytest.raises(DataError, match="downloads are switched off; allow them, or give a folder"):
        load("shakespeare", download=False)


def test_a_download_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(url: str, path: Path, **_: object) -> None:
        asked.append(url)
        path.parent.mkdir(parents=True)
        path.write_text("not the plays")

    monkeypatch.setattr(shakespeare, "download", fetch)
    with pytest.raises(DataError, match=r"sha256 differs.*; delete it and fetch it again"):
        load("shakespeare")
    assert asked == [shakespeare.URL]
