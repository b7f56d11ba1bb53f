import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compressm.data import DataError
from compressm.data.cache import cached_arrays
from compressm.scan.runtime import cache_directory

Arrays = dict[str, np.ndarray]


class Builder:
    """Stands for a slow reader: counts how often it is asked."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.calls = 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return {"images": np.frombuffer(self.source.read_bytes(), np.uint8).copy(), "labels": np.arange(3)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.bin"
    path.write_bytes(b"abcdef")
    return path


def entries() -> list[Path]:
    return sorted((cache_directory() / "arrays").iterdir())


def test_the_second_read_is_a_read_only_map_of_the_first(source: Path) -> None:
    build = Builder(source)
    first, second = (cached_arrays("part", [source], build) for _ in range(2))
    assert build.calls == 1
    assert bytes(second["images"]) == b"abcdef"
    assert second["labels"].tolist() == first["labels"].tolist() == [0, 1, 2]
    assert second["labels"].dtype == np.int64
    assert not second["images"].flags.writeable
    assert isinstance(second["images"].base, np.memmap)
    assert len(entries()) == 1
    assert entries()[0].name.startswith("part-")


@pytest.mark.parametrize("content", [b"abcdeX", b"abcdefg", b""])
def test_a_changed_source_is_read_again(source: Path, content: bytes) -> None:
    build = Builder(source)
    cached_arrays("part", [source], build)
    stat = source.stat()
    source.write_bytes(content)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert bytes(cached_arrays("part", [source], build)["images"]) == content
    assert build.calls == 2


def test_the_same_content_elsewhere_is_known(source: Path, tmp_path: Path) -> None:
    build = Builder(source)
    cached_arrays("part", [source], build)
    moved = source.rename(tmp_path / "moved.bin")
    assert bytes(cached_arrays("part", [moved], build)["images"]) == b"abcdef"
    assert build.calls == 1


def flip_last_byte(entry: Path) -> None:
    path = entry / "images.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def cut_short(entry: Path) -> None:
    path = entry / "labels.npy"
    path.write_bytes(path.read_bytes()[:-3])


def lose_array(entry: Path) -> None:
    (entry / "images.npy").unlink()


def lose_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()


def garble_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text("[1, {")


def wrong_kind_of_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text("[1]")


@pytest.mark.parametrize(
    "damage",
    [flip_last_byte, cut_short, lose_array, lose_manifest, garble_manifest, wrong_kind_of_manifest],
)
def test_a_damaged_entry_is_noticed_and_rebuilt(source: Path, damage: Callable[[Path], None]) -> None:
    build = Builder(source)
    cached_arrays("part", [source], build)
    damage(entries()[0])
    with pytest.warns(RuntimeWarning, match=r"the cache .*part-.* is damaged \(.+\) and is built anew"):
        rebuilt = cached_arrays("part", [source], build)
    assert bytes(rebuilt["images"]) == b"abcdef"
    assert build.calls == 2
    cached_arrays("part", [source], build)
    assert build.calls == 2
    assert len(entries()) == 1


def test_an_interrupted_write_leaves_nothing_behind(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cached_arrays("part", [source], Builder(source))
    assert entries() == []


def test_without_a_writable_folder_it_works_and_says_so_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COMPRESSM_CACHE_DIR", str(tmp_path / "file" / "cache"))
    build = Builder(source)
    with pytest.warns(RuntimeWarning, match="set COMPRESSM_CACHE_DIR to a writable folder"):
        first = cached_arrays("part", [source], build)
    # Warnings are errors here, so a second one would fail the test.
    second = cached_arrays("part", [source], build)
    assert bytes(first["images"]) == bytes(second["images"]) == b"abcdef"
    assert build.calls == 2


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.bin"
    with pytest.raises(DataError, match=r"cannot read .*missing\.bin: No such file"):
        cached_arrays("part", [missing], Builder(missing))


@pytest.mark.parametrize(
    ("platform", "variable", "tail"),
    [
        ("linux", "XDG_CACHE_HOME", "chosen/compressm"),
        ("linux", None, ".cache/compressm"),
        ("darwin", None, "Library/Caches/compressm"),
        ("win32", "LOCALAPPDATA", "chosen/compressm/Cache"),
        ("win32", None, "compressm/Cache"),
    ],
)
def test_the_platforms_own_place(
    platform: str, variable: str | None, tail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COMPRESSM_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / "chosen"))
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_directory() == tmp_path / tail


def test_the_users_choice_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSM_CACHE_DIR", "~/elsewhere")
    assert cache_directory() == Path.home() / "elsewhere"
