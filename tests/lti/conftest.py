"""Systems to test on: a plain random one, and the families of the benchmark."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from compressm.lti import DiagonalSystem

_FAMILIES = Path(__file__).parents[2] / "benchmarks" / "random_systems_families.py"


@pytest.fixture(scope="session")
def families() -> ModuleType:
    """The benchmark's generator and its independent measure of the error."""
    spec = importlib.util.spec_from_file_location("random_systems_families", _FAMILIES)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def draw(families) -> Callable[[str, int], DiagonalSystem]:
    def make(family: str, seed: int) -> DiagonalSystem:
        m = families.draw(family, seed)
        log_A, B, C, D = (torch.from_numpy(array) for array in (m.log_A, m.B, m.C, m.D))
        return DiagonalSystem(None, B, C, D, log_A=log_A)

    return make


@pytest.fixture(scope="session")
def random_system() -> Callable[..., DiagonalSystem]:
    """A well-behaved system: ``random_system(N, H, P, seed)``."""

    def make(
        N: int, H: int, P: int, seed: int = 0, *, low: float = 0.3, high: float = 0.95
    ) -> DiagonalSystem:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.complex128)

        uniform = torch.rand(2, N, generator=generator, dtype=torch.float64)
        log_A = torch.complex(torch.log(low + (high - low) * uniform[0]), math.pi * (2.0 * uniform[1] - 1.0))
        return DiagonalSystem(None, normal(N, H), normal(P, N), normal(P, H).real, log_A=log_A)

    return make
