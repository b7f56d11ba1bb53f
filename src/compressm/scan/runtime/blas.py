"""PyTorch's own matrix product, for kernels to call.

A kernel that multiplies matrices by itself needs no other parallel region than its own: each worker goes
through its part of the work at its own pace, on data that stays in its core's cache.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch

GEMM_SYMBOLS = {
    "sgemm_": "compressm_sgemm",
    "dgemm_": "compressm_dgemm",
    "gemm_bf16bf16f32_": "compressm_gemm_bf16",
    "sgemm_pack_": "compressm_sgemm_pack",
    "sgemm_compute_": "compressm_sgemm_compute",
    "cblas_sgemm_pack_get_size": "compressm_sgemm_pack_size",
}
_NEEDED = ("sgemm_", "dgemm_")


@cache
def processor_has(instructions: str) -> bool:
    """Whether the processor has instructions, by the name that PyTorch gives them."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get(instructions, False))


@cache
def gemm_addresses() -> dict[str, int] | None:
    """Addresses of BLAS's ``sgemm_`` and ``dgemm_``, and of the others that are there; or None.

    They are those of PyTorch's library. Only MKL's are taken: called inside a parallel region, they stay on
    the calling thread.
    """
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return None
    folder = Path(torch.__file__).parent / "lib"
    for path in sorted(folder.glob("*torch_cpu.*")):
        if path.suffix not in (".so", ".dll", ".dylib"):
            continue
        library = ctypes.CDLL(str(path))
        if all(hasattr(library, name) for name in _NEEDED):
            found = {
                name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value
                for name in GEMM_SYMBOLS
                if hasattr(library, name)
            }
            return {name: address for name, address in found.items() if address is not None}
    return None


@cache
def packed_bytes(columns: int, rows: int, inner: int) -> int | None:
    """Bytes of weights ``(inner, columns)`` packed for products of so many rows; None if BLAS packs none."""
    address = (gemm_addresses() or {}).get("cblas_sgemm_pack_get_size")
    if address is None:
        return None
    measure = ctypes.CFUNCTYPE(ctypes.c_size_t, *[ctypes.c_int] * 4)(address)
    left_operand = 161  # which weights are to BLAS: it counts by columns
    return int(measure(left_operand, columns, rows, inner))
