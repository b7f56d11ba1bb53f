"""Free Spoken Digits: raw waveforms at 8 kHz, or filtered and thinned out to 2 kHz; or a stream to continue.

The recordings numbered 0-4 of each speaker and digit are the official test set, the others are for training.
"""

from __future__ import annotations

import io
import wave
from functools import partial
from pathlib import Path

import numpy as np

from compressm.data.cache import cached_arrays
from compressm.data.characters import windows
from compressm.data.encodings import Scaled
from compressm.data.errors import DataError
from compressm.data.mu_law import LEVELS, mu_law
from compressm.data.progress import progress_bar
from compressm.data.source import Source
from compressm.data.splits import VALIDATION_SEED, Array, Split, Splits, hold_out
from compressm.data.table import Columns, find_shards
from compressm.data.task import Task

RATE = 8000
LONGEST = 18_262
TEST_RECORDINGS = 5
# Batches end near their longest recording: the median is less than a fifth of the longest of all.
PAD_TO = 64
WINDOW = 1024


def load_fsdd(source: Source, *, downsample: int = 1) -> Splits:
    """Load the recordings as waveforms in [-1, 1) with their lengths.

    Args:
        source: Where the files are; there is no place to fetch them.
        downsample: Every how many samples one is kept, after a low-pass filter.

    Raises:
        DataError: If a file is missing or damaged, or a recording is in the wrong part.
        ModuleNotFoundError: If Parquet has to be read and ``compressm[data]`` is not installed.
    """
    if source.data_dir is None:
        raise DataError(
            "the Free Spoken Digits are not on the hub in this layout; give --data-dir a folder with "
            "fsdd/train-00000-of-00001.parquet and test-00000-of-00001.parquet (columns audio, label, index)"
        )
    train, test = (_read(part, source, downsample) for part in ("train", "test"))
    return Splits(*hold_out(train, seed=VALIDATION_SEED), test)


def load_fsdd_stream(source: Source) -> Splits:
    """Load each part's recordings one after the other as mu-law levels, in windows: the next sample is asked.

    The recordings of the parts are those of :func:`load_fsdd`. Errors are those of it, too.
    """
    splits = load_fsdd(source)
    return Splits(
        *(windows(_stream(part), WINDOW, LEVELS) for part in (splits.train, splits.validation, splits.test))
    )


def _stream(split: Split) -> Array:
    lengths = split.lengths if split.lengths is not None else np.full(len(split), split.steps)
    waves = (wave[:length, 0] for wave, length in zip(split.inputs, lengths, strict=True))
    return np.concatenate([mu_law(wave) for wave in waves])


def _read(part: str, source: Source, downsample: int) -> Split:
    hint = "with the columns audio, label and index"
    shards = find_shards(source.data_dir or Path(), part, subfolders=("fsdd",), otherwise=hint)
    name = f"fsdd-{part}-{RATE // downsample}"
    arrays = cached_arrays(name, shards, lambda: _decode(shards, part, downsample, source.progress))
    waves = arrays["waves"][:, :, None]
    return Split(waves, arrays["labels"], arrays["lengths"], encode=Scaled(32768.0), pad_to=PAD_TO)


def _decode(shards: list[Path], part: str, downsample: int, progress: bool) -> dict[str, Array]:
    waves, labels = [], []
    for path in shards:
        columns = Columns(path, ("audio", "label", "index"))
        labels.append(columns.labels("label", 10))
        _check_part(path, part, columns.integers("index"))
        with progress_bar(f"decoding {path.name}", len(columns), show=progress) as advance:
            for row, data in enumerate(columns.files("audio")):
                waves.append(thin_out(_samples(path, row, data), downsample))
                advance(1)
    lengths = np.array([len(wave) for wave in waves], np.int32)
    padded = np.zeros((len(waves), -(-LONGEST // downsample)), np.int16)
    for row, samples in enumerate(waves):
        padded[row, : len(samples)] = samples
    return {"waves": padded, "lengths": lengths, "labels": np.concatenate(labels)}


def _check_part(path: Path, part: str, index: Array) -> None:
    wrong = np.flatnonzero((index < TEST_RECORDINGS) != (part == "test"))
    if wrong.size:
        raise DataError(
            f"row {wrong[0]} of {path} is recording {index[wrong[0]]}; recordings 0-{TEST_RECORDINGS - 1} "
            f"belong into the test file and no others: fetch the files again"
        )


def _samples(path: Path, row: int, data: bytes | None) -> Array:
    wanted = (1, 2, RATE)
    try:
        with wave.open(io.BytesIO(data or b"")) as file:
            found = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            count = file.getnframes()
            frames = file.readframes(count)
    except (wave.Error, EOFError) as error:
        raise DataError(
            f"the recording in row {row} of {path} cannot be decoded ({error}); fetch the file again"
        ) from error
    if found != wanted:
        raise DataError(
            f"row {row} of {path} has (channels, bytes, rate) = {found}, expected {wanted}; "
            "it is not this task's file"
        )
    if len(frames) != 2 * count or not 1 <= count <= LONGEST:
        raise DataError(
            f"the recording in row {row} of {path} has {len(frames) // 2} of {count} samples, expected all "
            f"of 1..{LONGEST}; fetch the file again"
        )
    return np.frombuffer(frames, "<i2")


def thin_out(samples: Array, factor: int) -> Array:
    """Keep every ``factor``-th sample of an int16 waveform after a low-pass filter without delay.

    The filter is a windowed sinc (Hamming, 16 zero crossings) that halves the amplitude at 0.9 of the new
    Nyquist frequency.
    """
    if factor == 1:
        return samples
    half = 8 * factor
    steps = np.arange(-half, half + 1)
    kernel = np.sinc(0.9 * steps / factor) * np.hamming(2 * half + 1)
    smooth = np.convolve(samples, kernel / kernel.sum())[half : half + len(samples) : factor]
    thinned: Array = np.clip(np.rint(smooth), -32768, 32767).astype(np.int16)
    return thinned


_task = partial(
    Task,
    input_dim=1,
    num_classes=10,
    sizes=(2_430, 270, 300),
    origin="Free Spoken Digit Dataset by Z. Jackson and others, 2016-, commonly given as CC BY-SA 4.0. Read "
    "from a data folder.",
    needs_files=True,
)
TASKS = (
    _task(
        name="fsdd",
        length=LONGEST,
        description="Free Spoken Digits: the raw waveform of one spoken digit at 8 kHz; six speakers.",
        reader=load_fsdd,
    ),
    _task(
        name="fsdd-2k",
        length=-(-LONGEST // 4),
        description="Free Spoken Digits at 2 kHz, for quick runs.",
        reader=partial(load_fsdd, downsample=4),
    ),
    _task(
        name="fsdd-mulaw",
        kind="tokens",
        symbol="sample",
        input_dim=LEVELS,
        num_classes=LEVELS,
        vocab_size=LEVELS,
        length=WINDOW,
        sizes=(8_292, 949, 1_009),
        rate=RATE,
        description="Free Spoken Digits: the next sample at 8 kHz, in 256 mu-law levels, windows of 1,024.",
        reader=load_fsdd_stream,
    ),
)
