"""Where this machine's measurements and lock files live, and a lock between processes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def cache_directory() -> Path:
    r"""The folder for what compressm measures once per machine; it need not exist.

    ``COMPRESSM_CACHE_DIR`` if set, else the platform's place for caches: ``$XDG_CACHE_HOME/compressm`` or
    ``~/.cache/compressm``, ``~/Library/Caches/compressm`` on macOS, ``%LOCALAPPDATA%\compressm\Cache`` on
    Windows.
    """
    if chosen := os.environ.get("COMPRESSM_CACHE_DIR"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "compressm" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "compressm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compressm"


@contextmanager
def process_lock(name: str) -> Iterator[bool]:
    """Hold the lock ``name`` against other processes of this user; blocks until it is free.

    Yields whether the lock is held: a cache folder that cannot be written gives no lock, and what the lock
    protects is then an optimisation lost, not an error.
    """
    try:
        folder = cache_directory()
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"{name}.lock").open("a+b")
    except OSError:
        yield False
        return
    with file:
        _lock(file)
        try:
            yield True
        finally:
            _unlock(file)


if sys.platform == "win32":
    import msvcrt
    import time

    def _lock(file: IO[bytes]) -> None:
        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError:
                time.sleep(0.05)
            else:
                return

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
