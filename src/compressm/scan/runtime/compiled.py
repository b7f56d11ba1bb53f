"""Kernels compiled by Numba when first needed, kept on disk for the next process.

A kernel is a Python function of one pointer, ``void kernel(int64 *arguments)``. Words 0 and 1 of the
arguments are the worker's number and the number of workers (or -1: ask OpenMP), the rest is the kernel's own.
With a single signature there is one compiled version per kernel, and a C function pointer that any thread may
call without the interpreter.
"""

import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from compressm.scan.runtime.cache import process_lock
from compressm.scan.runtime.kept import kernel_folder, numba_keeps_in

FLOATS = {torch.float32: "float32", torch.float64: "float64"}
"""The dtypes that kernels compute in, and how their names end."""

STORED = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""The dtypes that kernels which compute in float32 read and write, and how their names end."""

_compiling = threading.Lock()
_seconds = 0.0


def compile_seconds() -> float:
    """Seconds this process has spent compiling kernels or loading them from disk, Numba's import included."""
    return _seconds


class Kernel:
    """A kernel that is compiled at its first use.

    Args:
        module: the name of the module of the Python function; importing it may import Numba.
        name: the function's name there.

    Attributes:
        name: both.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._function, self.name = module, name, f"{module}.{name}"
        self._address: int | None = None
        self._compiled: object = None  # keeps the machine code alive

    @property
    def address(self) -> int:
        """The address of ``void kernel(int64 *arguments)``, compiled on first use."""
        if self._address is None:
            with _compiling:
                if self._address is None:
                    self._compile()
        address = self._address
        if address is None:
            raise RuntimeError("the kernel was compiled but has no address; this is a defect of compressm")
        return address

    def _compile(self) -> None:
        global _seconds
        start = time.perf_counter()
        # Two processes that fill Numba's cache at once can pair one's index with the other's code.
        with process_lock("numba"):
            function = getattr(import_module(self._module), self._function)
            self._compiled = compiled = _cfunc(function)
        self._address = int(compiled.address)
        _seconds += time.perf_counter() - start


def stored(module: str, name: str) -> dict[torch.dtype, Kernel]:
    """The kernels ``name`` in ``module`` for each dtype of :data:`STORED`."""
    return {dtype: Kernel(module, f"{name}_{ending}") for dtype, ending in STORED.items()}


def _cfunc(function: Callable[[Any], None]) -> Any:
    from numba import cfunc, types

    from compressm.scan.runtime.team import define_symbols

    define_symbols()
    signature = types.void(types.CPointer(types.int64))
    # Contraction lets a product and a sum become one fused instruction; nothing else may be reordered.
    options = {"nopython": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        with numba_keeps_in(kernel_folder(function.__module__)):
            return cfunc(signature, cache=True, **options)(function)
    except (ImportError, OSError, RuntimeError) as error:
        # No source, as in a frozen program; a folder that cannot be written, or a full disk: numba raises
        # RuntimeError where it finds no place.
        if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
            raise
        return cfunc(signature, **options)(function)
