"""JAX on the CPU, with as many threads as PyTorch has; imported only where a peer needs it."""

import importlib
import importlib.util
import os
from functools import cache
from typing import Any

HOW_TO_GET = "not installed: pip install jax"


@cache
def load_jax(threads: int) -> Any:
    """The module ``jax``, on the CPU.

    Its pool of threads is its own. XLA reads its size from the environment when it starts, so the first call
    of a process decides.
    """
    os.environ["NPROC"] = str(threads)
    jax = importlib.import_module("jax")
    jax.config.update("jax_platforms", "cpu")
    return jax


def missing_jax(device: str) -> str | None:
    """Why JAX cannot take part, None if it can."""
    if importlib.util.find_spec("jax") is None:
        return HOW_TO_GET
    return None if device == "cpu" else "compared on the CPU only"
