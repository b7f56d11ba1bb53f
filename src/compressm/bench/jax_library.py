"""JAX, with as many threads as PyTorch has on a CPU; imported only where a peer needs it."""

import importlib
import importlib.util
import os
from functools import cache
from typing import Any

HOW_TO_GET = "not installed: pip install jax"


@cache
def load_jax(threads: int, device: str = "cpu") -> Any:
    """The module ``jax`` on a device, ``cpu`` or ``cuda``.

    Its pool of threads is its own. XLA reads its size from the environment when it starts, so the first call
    of a process decides.
    """
    os.environ["NPROC"] = str(threads)
    # Else it takes three quarters of a GPU's memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax = importlib.import_module("jax")
    jax.config.update("jax_platforms", device)
    return jax


def missing_jax(device: str) -> str | None:
    """Why JAX cannot take part, None if it can."""
    if importlib.util.find_spec("jax") is None:
        return HOW_TO_GET
    plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin")
    if device == "cuda" and not any(map(importlib.util.find_spec, plugins)):
        return 'not installed for CUDA: pip install "jax[cuda13]"'
    return None
