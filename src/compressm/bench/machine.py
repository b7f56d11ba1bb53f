"""What the figures were measured on: processor, threads, versions. Nothing that names the machine."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from compressm.bench.contender import Settings

PACKAGES = ("compressm", "torch", "numba", "jax", "jaxlib", "mambapy", "transformers", "mamba-ssm",
            "flash-linear-attention", "triton")  # fmt: skip


def describe_machine(settings: Settings) -> dict[str, Any]:
    """Processor, threads, versions and dtype, as JSON takes it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {package: found for package in PACKAGES if (found := _version(package)) is not None}
    return {
        "processor": processor(),
        "cores": cores,
        "device": torch.cuda.get_device_name() if settings.device == "cuda" else "cpu",
        "threads": settings.threads,
        "jax_threads": f"a pool of its own, {settings.threads} wide",
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
        "dtype": "float32, matrix products in TF32" if settings.tf32 else "float32",
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, as the system has it."""
    file = Path("/proc/cpuinfo")
    if sys.platform == "linux" and file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
