"""Run a kernel on several cores without disturbing PyTorch's threads.

PyTorch's OpenMP workers keep spinning for milliseconds after every parallel operation. A second set of
threads would compete with them for the same cores: on two cores, two threads of our own right after a matrix
product measured no faster than one. So kernels run on the very team PyTorch has: ``GOMP_parallel`` of the
OpenMP library that PyTorch ships. It changes no setting of that library, so thread counts stay as they were.
Where that entry does not exist (Windows), a few Python threads call the kernels, which hold no interpreter
lock.
"""

import ctypes
import os
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from compressm.scan.runtime.blas import GEMM_SYMBOLS, gemm_addresses
from compressm.scan.runtime.compiled import Kernel

WORKER_SYMBOL, TEAM_SYMBOL = "compressm_worker_number", "compressm_team_size"
_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run_kernel(kernel: Kernel, arguments: list[int], threads: int) -> None:
    """Call ``kernel`` once per worker, at the same time, and wait for all.

    Args:
        kernel: learns its worker's number and the number of workers from ``worker``, in ``pointers``.
        arguments: integers and addresses (``Tensor.data_ptr()``); the tensors must outlive the call.
        threads: number of workers wanted. OpenMP may give fewer, as inside another parallel region: results
            must not depend on the number.
    """
    words = array("q", [-1, threads, *arguments])
    parallel = _gomp_parallel()
    if threads == 1:
        words[0] = 0
        _ENTRY(kernel.address)(words.buffer_info()[0])
    elif parallel is not None:
        parallel(kernel.address, words.buffer_info()[0], threads, 0)
    else:
        _run_on_python_threads(kernel.address, words, threads)


def addresses(*tensors: Tensor | None) -> list[int]:
    """Where tensors begin, as words of a kernel; 0 for None. They must outlive its call."""
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def workers_share(items: int) -> bool:
    """Whether threads may take items of their own: it idles at most a fifth of them."""
    workers = torch.get_num_threads()
    return 5 * workers * -(-items // workers) <= 6 * items


def _run_on_python_threads(address: int, words: "array[int]", threads: int) -> None:
    entry = _ENTRY(address)
    copies = [array("q", words) for _ in range(threads)]
    for worker, copy in enumerate(copies):
        copy[0] = worker
    others = [_pool(os.getpid()).submit(entry, copy.buffer_info()[0]) for copy in copies[1:]]
    entry(copies[0].buffer_info()[0])
    for other in others:
        other.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    # One pool per process: threads do not survive a fork.
    del process
    return ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 2) - 1), thread_name_prefix="compressm")


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that PyTorch uses, if it has GNU's entry points, as LLVM's and Intel's have."""
    folder = Path(torch.__file__).parent
    shipped = [
        path
        for place in (folder / "lib", folder.parent / "torch.libs")
        for name in ("libgomp*", "libomp*", "libiomp5*")
        for path in sorted(place.glob(name))
    ]
    for path in shipped:
        library = ctypes.CDLL(str(path))
        if hasattr(library, "GOMP_parallel"):
            return library
    if hasattr(os, "RTLD_NOLOAD"):
        try:
            # Distributions link PyTorch to the system's library: only a copy that is loaded already will do.
            library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:
            return None
        if hasattr(library, "GOMP_parallel"):
            return library
    return None


@cache
def _gomp_parallel() -> "ctypes._NamedFuncPointer | None":
    library = _openmp()
    if library is None:
        return None
    function = library.GOMP_parallel
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    function.restype = None
    return function


_ALONE = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)


@cache
def define_symbols() -> None:
    """Tell LLVM what kernels call: OpenMP's thread number and team size, and PyTorch's matrix products.

    Without OpenMP its symbols are never called, nor the products without MKL.
    """
    import llvmlite.binding as llvm

    library = _openmp()
    for symbol, name in ((WORKER_SYMBOL, "omp_get_thread_num"), (TEAM_SYMBOL, "omp_get_num_threads")):
        function = _ALONE if library is None else getattr(library, name)
        llvm.add_symbol(symbol, ctypes.cast(function, ctypes.c_void_p).value)
    addresses = gemm_addresses()
    for name, symbol in GEMM_SYMBOLS.items():
        # Loading a kernel wants some address, even where it will not be run for the lack of a product.
        llvm.add_symbol(symbol, 1 if addresses is None else addresses.get(name, 1))
