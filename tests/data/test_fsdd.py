import io
import math
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from compressm.data import DataError, get_task, load
from compressm.data.fsdd import thin_out
from compressm.data.mu_law import mu_law

Write = Callable[[str, list[bytes], list[int], list[int]], Path]


def encode_wav(samples: np.ndarray, *, rate: int = 8000, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(part: str, audio: list[bytes], labels: list[int], index: list[int]) -> Path:
        path = tmp_path / "data" / "fsdd" / f"{part}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        files = [{"bytes": data, "path": "x.wav"} for data in audio]
        parquet.write_table(pyarrow.table({"audio": files, "label": labels, "index": index}), path)
        return path

    return write


@pytest.fixture
def recordings(write: Write) -> dict[str, list[np.ndarray]]:
    random = np.random.RandomState(11)
    made = {}
    for part, count in (("train", 20), ("test", 3)):
        made[part] = [random.randint(-3000, 3000, size=random.randint(20, 300)) for _ in range(count)]
        first = 5 if part == "train" else 0
        index = [first + row % 5 for row in range(count)]
        write(
            part, [encode_wav(samples) for samples in made[part]], [row % 10 for row in range(count)], index
        )
    return made


@pytest.mark.usefixtures("recordings")
def test_a_split_needs_no_other_columns_and_has_the_tasks_shape(tmp_path: Path) -> None:
    for name in ("fsdd", "fsdd-2k"):
        splits = load(name, data_dir=tmp_path / "data")
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 2, 3)
        assert splits.train.steps == get_task(name).length


def test_waveforms_are_padded_to_the_longest_of_a_batch(
    recordings: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    batch = load("fsdd", data_dir=tmp_path / "data").test.batch(slice(None))
    lengths = [len(samples) for samples in recordings["test"]]
    assert batch.lengths is not None
    assert batch.lengths.tolist() == lengths
    assert batch.inputs.shape[1] == -(-max(lengths) // 64) * 64
    for row, samples in enumerate(recordings["test"]):
        assert np.array_equal(batch.inputs[row, : len(samples), 0].numpy(), (samples / 32768).astype("f4"))
        assert not batch.inputs[row, len(samples) :].any()


def test_a_quarter_of_the_samples_stays_at_2_khz(
    recordings: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    split = load("fsdd-2k", data_dir=tmp_path / "data").test
    assert split.lengths is not None
    assert split.lengths.tolist() == [math.ceil(len(samples) / 4) for samples in recordings["test"]]


@pytest.mark.parametrize(
    ("frequency", "gain", "within"), [(50, 1.0, 0.01), (600, 1.0, 0.02), (900, 0.5, 0.02), (1150, 0.0, 0.03)]
)
def test_what_2_khz_cannot_hold_is_filtered_out(frequency: float, gain: float, within: float) -> None:
    steps = np.arange(8000)
    tone = 10_000 * np.sin(2 * math.pi * frequency * steps / 8000)
    thinned = thin_out(tone.astype(np.int16), 4)[100:-100]
    # The tone's own samples, so a delay would show as well as a change of loudness.
    assert np.abs(thinned - gain * tone[::4][100:-100]).max() < within * 10_000


def test_without_a_folder_the_remedy_is_named() -> None:
    with pytest.raises(DataError, match=r"give --data-dir a folder with fsdd/train-00000-of-00001\.parquet"):
        load("fsdd")


@pytest.mark.usefixtures("recordings")
def test_a_recording_in_the_wrong_part_is_noticed(write: Write, tmp_path: Path) -> None:
    good = encode_wav(np.ones(9))
    for part, index in (("train", [5, 4]), ("test", [4, 5])):
        path = write(part, [good, good], [0, 1], index)
        kept = path.read_bytes()
        with pytest.raises(DataError, match=rf"row 1 of .*{part}-.* is recording {index[1]}; recordings 0-4"):
            load("fsdd", data_dir=tmp_path / "data")
        path.write_bytes(kept)
        write(part, [good] * 20, [0] * 20, [index[0]] * 20)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "row 1 of .* cannot be decoded"),
        (b"RIFF....WAVE not", "row 1 of .* cannot be decoded"),
        (encode_wav(np.ones(8), rate=16000), r"rate\) = \(1, 2, 16000\), expected \(1, 2, 8000\)"),
        (encode_wav(np.ones(8), channels=2), r"= \(2, 2, 8000\)"),
        (encode_wav(np.ones(8))[:-6], "row 1 of .* has 5 of 8 samples"),
        (encode_wav(np.zeros(0)), "row 1 of .* has 0 of 0 samples"),
        (encode_wav(np.zeros(18_263)), "has 18263 of 18263 samples, expected all"),
    ],
)
def test_a_damaged_recording_is_named(data: bytes, words: str, write: Write, tmp_path: Path) -> None:
    write("train", [encode_wav(np.ones(9)), data], [0, 1], [5, 6])
    with pytest.raises(DataError, match=words):
        load("fsdd", data_dir=tmp_path / "data")


def test_the_stream_is_every_recording_in_levels_one_after_the_other(write: Write, tmp_path: Path) -> None:
    random = np.random.RandomState(3)
    made = {}
    for part, first in (("train", 5), ("test", 0)):
        made[part] = [random.randint(-30000, 30000, size=1100 + 7 * row) for row in range(10)]
        index = [first + row % 5 for row in range(10)]
        write(part, [encode_wav(samples) for samples in made[part]], [row % 10 for row in range(10)], index)
    splits = load("fsdd-mulaw", data_dir=tmp_path / "data")
    whole = mu_law(np.concatenate(made["test"]).astype(np.int16))
    windows = (len(whole) - 1) // 1024
    assert np.array_equal(splits.test.inputs.ravel(), whole[: 1024 * windows])
    assert np.array_equal(splits.test.targets.ravel(), whole[1 : 1024 * windows + 1])
    # A tenth of the recordings is held out whole, so no window of one part continues in the other.
    held = load("fsdd", data_dir=tmp_path / "data").validation
    assert len(held) == 1
    assert held.lengths is not None
    kept = sum(map(len, made["train"])) - int(held.lengths[0])
    assert len(splits.train) == (kept - 1) // 1024
