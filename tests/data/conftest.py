"""Small files in the hub's layout, encoded here by hand and not by the library that reads them."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPRESSM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    # urllib keeps the proxies it met first, but asks for exceptions at every request.
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def encode_png(image: np.ndarray) -> bytes:
    """PNG from its specification: signature, header, one zlib stream of unfiltered rows, end."""
    height, width = image.shape[:2]
    colour = 0 if image.ndim == 2 else 2
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def make_shard(path: Path, images: list[bytes], labels: list[int], column: str = "image") -> None:
    """One file of labelled images; ``column`` may also hold other files, as WAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(
        {
            column: pyarrow.array(
                [{"bytes": data, "path": None} for data in images],
                type=pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
            ),
            "label": pyarrow.array(labels, type=pyarrow.int64()),
        }
    )
    parquet.write_table(table, path, compression="zstd")


@pytest.fixture
def png() -> Callable[[np.ndarray], bytes]:
    return encode_png


@pytest.fixture
def write_shard() -> Callable[..., None]:
    return make_shard


@pytest.fixture(scope="session")
def pixels() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    random = np.random.RandomState(7)
    return {
        part: (random.randint(0, 256, size=(count, 28, 28)).astype(np.uint8), random.randint(0, 10, count))
        for part, count in (("train", 40), ("test", 15))
    }


@pytest.fixture
def mnist_folder(tmp_path: Path, pixels: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """A data folder with ``mnist/train-...`` and ``mnist/test-...`` of random images."""
    for part, (images, labels) in pixels.items():
        path = tmp_path / "data" / "mnist" / f"{part}-00000-of-00001.parquet"
        make_shard(path, [encode_png(image) for image in images], labels.tolist())
    return tmp_path / "data"
