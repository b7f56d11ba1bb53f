"""The most memory that this process held."""

import sys
from pathlib import Path

import torch

from compressm.training.memory import give_back_freed_memory

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # starts the peak anew (proc(5))


def start_peak() -> None:
    """Start the peak anew, where the system can: a process may make several runs.

    Memory that the process kept of an earlier one is given back first, so that it does not count again.
    """
    give_back_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if _CLEAR.exists():
        try:
            _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        except OSError:  # a container may forbid it; the peak is then the process's so far
            return


def peak_memory() -> int | None:
    """Bytes resident at the peak, Python and libraries among them; None where no system call tells."""
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "VmHWM":
                return int(value.split()[0]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def gpu_peak_memory(device: torch.device) -> int | None:
    """Bytes of tensors on a GPU at the peak; None for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
