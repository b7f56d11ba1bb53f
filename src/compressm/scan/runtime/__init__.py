"""What every compiled CPU recurrence needs: kernels from Numba, and threads to run them on."""

from compressm.scan.runtime.blas import gemm_addresses, processor_has
from compressm.scan.runtime.cache import cache_directory
from compressm.scan.runtime.compiled import FLOATS, STORED, Kernel, compile_seconds, stored
from compressm.scan.runtime.team import addresses, run_kernel, workers_share

__all__ = [
    "FLOATS",
    "STORED",
    "Kernel",
    "addresses",
    "cache_directory",
    "compile_seconds",
    "gemm_addresses",
    "processor_has",
    "run_kernel",
    "stored",
    "workers_share",
]
