"""The norm of large systems against ``benchmarks/norm_search.py``, and that look against a formula."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from compressm.lti import DiagonalSystem

_SEARCH = Path(__file__).parents[2] / "benchmarks" / "norm_search.py"


@pytest.fixture(scope="module")
def search(families) -> ModuleType:
    assert families.__name__ in sys.modules  # which the benchmark imports
    spec = importlib.util.spec_from_file_location("norm_search", _SEARCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("distance", [0.3, 1e-7])
def test_the_independent_look_finds_a_known_peak(search, distance: float) -> None:
    modulus, angle = torch.tensor(1.0 - distance, dtype=torch.float64), 0.7
    log_A = torch.complex(modulus.log(), torch.tensor(angle, dtype=torch.float64))[None]
    B, C = torch.ones(1, 1, dtype=torch.complex128), torch.full((1, 1), 2.0, dtype=torch.complex128)
    system = DiagonalSystem(None, B, C, None, log_A=log_A)
    # 1/(1 - l z) + 1/(1 - conj(l) z) = (2 - 2 r cos t z)/(1 - 2 r cos t z + r^2 z^2), on a grid of its own.
    omega = angle + distance * torch.linspace(-1.0, 1.0, 200_001, dtype=torch.float64)
    z = torch.exp(-1j * omega)
    inner = 2.0 * modulus * torch.cos(torch.tensor(angle, dtype=torch.float64))
    expected = float(((2.0 - inner * z) / (1.0 - inner * z + modulus**2 * z**2)).abs().max())
    assert search.independent_norm(system) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("poles", "kind", "index"),
    # Of the second and third a sample climbs to the very side of a peak, close to one neighbour.
    [
        ("near_circle", "changed", 3),
        ("ring", "modal", 17),
        ("near_circle", "modal", 27),
        ("real_poles", "balanced", 30),
    ],
)
def test_no_peak_is_missed(search, poles: str, kind: str, index: int) -> None:
    outcome = search.compare(poles, kind, index, seed=1)
    assert max(outcome.below, outcome.above) < 1e-8
