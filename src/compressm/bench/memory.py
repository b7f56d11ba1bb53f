"""Peak memory of a step, each measured in a fresh process: its peak is its own.

    python -m compressm.bench.memory REQUEST

is what :func:`peak_memory` starts; REQUEST is JSON.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from compressm.bench import cases
from compressm.bench.cases import Case
from compressm.bench.contender import Settings

STEPS = 3
_RESET_PEAK = "5"  # what Linux's /proc/self/clear_refs takes to start the peak anew (proc(5))


class MemoryMeasurementError(RuntimeError):
    """The process that measures memory failed."""


def peak_memory(case: Case, contender: str, settings: Settings) -> int | None:
    """Bytes by which the resident memory of a fresh process rises at its peak, during a few steps.

    Operands, parameters and optimiser are counted; libraries, kernels and compilers are loaded before. On a
    GPU the peak of PyTorch's allocator there. None where the system tells no peak (Windows).

    Raises:
        MemoryMeasurementError: If the process fails, with the last line of its errors.
    """
    if sys.platform == "win32" and settings.device == "cpu":
        return None
    request = json.dumps({"case": encode(case), "contender": contender, "settings": asdict(settings)})
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads)}
    done = subprocess.run(  # noqa: S603 - this very module
        [sys.executable, "-m", "compressm.bench.memory", request],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MemoryMeasurementError(
            f"measuring the memory of {contender} in {case.name} ended with code {done.returncode}: {last}; "
            "leave it out with --no-memory"
        )
    return int(json.loads(done.stdout.strip().splitlines()[-1]))


def encode(case: Case) -> dict[str, Any]:
    """A case as JSON takes it."""
    return {"kind": type(case).__name__, **asdict(case)}


def decode(data: dict[str, Any]) -> Case:
    """The case that :func:`encode` made this of."""
    fields = dict(data)
    case: Case = getattr(cases, fields.pop("kind"))(**fields)
    return case


def measure(case: Case, contender: str, settings: Settings) -> int:
    """The rise in this very process."""
    from compressm.bench.contenders import contenders_of

    torch.set_num_threads(settings.threads)
    (chosen,) = (found for found in contenders_of(case, settings) if found.name == contender)
    chosen.load(case)
    gc.collect()
    before = _start_peak(settings.device)
    step = chosen.step(case)
    for _ in range(STEPS):
        step()
    peak = chosen.device_peak() if settings.device == "cuda" else _peak(settings.device)
    return max(0, peak - before)


def _start_peak(device: str) -> int:
    """Start the peak anew where that is possible; returns what is in use (else the peak so far)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():
        return _peak(device)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # what compilers have freed is not to serve as room for the steps
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return _peak(device)
    return _status("VmRSS")


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise MemoryMeasurementError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    rise = measure(decode(given["case"]), given["contender"], Settings(**given["settings"]))
    sys.stdout.write(json.dumps(rise) + "\n")
