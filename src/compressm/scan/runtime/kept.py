"""Where compiled kernels are kept: a folder for each state of all the sources that a kernel is made of.

Numba compares the one file in which the kernel stands with what it was. But its widths of vectors, its
layout of memory and most of its arithmetic are imported: after an upgrade that changed these and left the
kernel's own file alone, it would run on as it was, and read and write in the wrong places.
"""

import ast
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compressm.scan.runtime.cache import cache_directory

UNUSED_DAYS = 60
"""After so many days without use the kernels of one state of the sources are removed."""


def sources(module: str) -> dict[str, str]:
    """Source of a module and of all that it imports, directly or not, from its own distribution.

    Raises:
        ImportError: If one is not to be found, or has no source.
    """
    found: dict[str, str] = {}
    wanted, root = [module], module.partition(".")[0]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        loader: Any = getattr(find_spec(name), "loader", None)
        source = None if loader is None else loader.get_source(name)
        if source is None:
            raise ImportError(f"module {name} has no source")
        found[name] = source
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == root:
                wanted.append(str(node.module))
                wanted += [part for alias in node.names if (part := _submodule(node.module, alias.name))]
            elif isinstance(node, ast.Import):
                wanted += [alias.name for alias in node.names if alias.name.partition(".")[0] == root]
    return found


def _submodule(package: str | None, name: str) -> str | None:
    """The module that ``from package import name`` makes known, or None where the name is no module's."""
    whole = f"{package}.{name}"
    try:
        return whole if find_spec(whole) is not None else None
    except ModuleNotFoundError:  # package is a module itself
        return None


def kernel_folder(module: str) -> Path:
    """The folder for what is compiled from a module in its present state; it is there and marked as used.

    It lies in ``kernels`` of :func:`~compressm.scan.runtime.cache_directory`, or of ``compressm`` in
    ``NUMBA_CACHE_DIR`` where that is set. Others that were not used for :data:`UNUSED_DAYS` are removed.

    Raises:
        ImportError: If not all sources are to be found.
        OSError: If the folder cannot be made.
    """
    digest = blake2b(digest_size=12)
    for name, source in sorted(sources(module).items()):
        digest.update(f"{name}\n{source}\n".encode())
    chosen = _numba_settings().CACHE_DIR
    cache = Path(chosen) / "compressm" if chosen else cache_directory()
    folder = cache / "kernels" / f"{module.rpartition('.')[2]}-{digest.hexdigest()}"
    fresh = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    if fresh:
        oldest = time.time() - UNUSED_DAYS * 86_400
        for other in folder.parent.iterdir():
            with suppress(OSError):  # another process may be at the same
                if other.stat().st_mtime < oldest:
                    shutil.rmtree(other)
    return folder


@contextmanager
def numba_keeps_in(folder: Path) -> Iterator[None]:
    """Numba looks for what it has compiled, and puts it, in ``folder``.

    The setting is the whole process's: be quick, and alone.
    """
    settings = _numba_settings()
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        settings.CACHE_DIR = before


def _numba_settings() -> Any:
    from numba import config

    return config
