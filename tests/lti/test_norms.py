from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from compressm.lti import DiagonalSystem, directions, h2_norm, hinf, hinf_norm
from compressm.lti.peaks import frequency_grid, highest_peaks
from compressm.lti.response import spectral_norms


def _largest_gain(system: DiagonalSystem) -> float:
    """A dense grid, and SciPy's scalar minimiser around its largest values."""
    A, B, C = (tensor.numpy() for tensor in (system.A, system.B, system.C))
    D = system.direct_matrix().numpy()

    def gain(omega: float) -> float:
        z = np.exp(-1j * omega)
        matrix = 0.5 * (C / (1 - A * z) @ B + C.conj() / (1 - A.conj() * z) @ B.conj()) + D
        return float(np.linalg.norm(matrix, 2))

    grid = np.linspace(0.0, math.pi, 3000)
    values = np.array([gain(omega) for omega in grid])
    best = values.max()
    for index in np.argsort(values)[-5:]:
        low, high = grid[max(index - 1, 0)], grid[min(index + 1, len(grid) - 1)]
        found = minimize_scalar(
            lambda w: -gain(w), bounds=(low, high), method="bounded", options={"xatol": 1e-12}
        )
        best = max(best, -found.fun)
    return float(best)


@pytest.mark.parametrize(("N", "H", "P"), [(1, 1, 1), (6, 2, 3), (15, 4, 1)])
def test_hinf_against_scipy(random_system, N: int, H: int, P: int) -> None:
    for seed in range(3):
        system = random_system(N, H, P, seed)
        assert hinf_norm(system) == pytest.approx(_largest_gain(system), rel=1e-9)


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-10])
def test_hinf_finds_a_needle(gap: float) -> None:
    """One mode at distance ``gap`` from the circle among harmless ones: the peak is 1 / (2 gap)."""
    log_A = torch.tensor([math.log1p(-gap) + 1.2345j, -0.5 + 0.3j, -0.4 - 2j], dtype=torch.complex128)
    system = DiagonalSystem(None, torch.ones(3, 1), torch.ones(1, 3), log_A=log_A)
    assert system.hinf_norm() == pytest.approx(0.5 / gap, rel=50 * gap)


def test_hinf_of_simple_systems() -> None:
    one = torch.ones(1, 1)
    assert DiagonalSystem(torch.tensor([0.5]), one, one).hinf_norm() == pytest.approx(2.0)
    assert DiagonalSystem(torch.tensor([-0.5]), one, one).hinf_norm() == pytest.approx(2.0)
    assert DiagonalSystem(torch.tensor([0.5]), 0 * one, one, 3 * one).hinf_norm() == pytest.approx(3.0)
    assert DiagonalSystem(torch.tensor([0.5]), 0 * one, one).hinf_norm() == 0.0


@pytest.mark.parametrize("cheap", [0, 10**9])
def test_many_inputs_and_outputs_agree_with_full_matrices(random_system, monkeypatch, cheap: int) -> None:
    """The search through leading directions against the transfer matrix formed at every grid point."""
    monkeypatch.setattr(directions, "_CHEAP", cheap)
    for seed in range(4):
        system = random_system(20, 24, 20, seed, low=0.8, high=0.99)
        other = random_system(6, 24, 20, seed + 50, low=0.8, high=0.99)
        for case in (system, system - DiagonalSystem(other.A, other.B, other.C, system.D)):
            through_directions = case.hinf_norm()
            with monkeypatch.context() as patch:
                patch.setattr(hinf, "_SMALL", 10**9)
                assert through_directions == pytest.approx(case.hinf_norm(), rel=1e-9)


def test_differences_below_float32_are_found(random_system, monkeypatch) -> None:
    """The first look in float32 sees rounding only, notices, and is repeated."""
    monkeypatch.setattr(directions, "_CHEAP", 0)
    system = random_system(20, 24, 20, low=0.8, high=0.99)
    change = torch.randn(system.C.shape, generator=torch.Generator().manual_seed(1), dtype=torch.complex128)
    error = system - DiagonalSystem(None, system.B, system.C + 1e-10 * change, system.D, log_A=system.log_A)
    grid = frequency_grid(error.log_A)
    exact = directions.TransferOperator(error)
    look, gains, _, _ = directions._first_look(error, grid, exact)
    assert look is exact
    assert bool((gains <= 1.001 * spectral_norms(error.frequency_response(grid))).all())
    alone = DiagonalSystem(None, system.B, change, log_A=system.log_A).hinf_norm()
    assert error.hinf_norm() == pytest.approx(1e-10 * alone, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-120, 1e-20, 1e30])
def test_many_inputs_of_any_size(random_system, monkeypatch, scale: float) -> None:
    monkeypatch.setattr(directions, "_CHEAP", 0)
    system = random_system(5, 20, 20)
    scaled = DiagonalSystem(None, system.B * scale, system.C, system.D * scale, log_A=system.log_A)
    assert scaled.hinf_norm() == pytest.approx(scale * system.hinf_norm(), rel=1e-9)


def test_many_inputs_that_do_nothing() -> None:
    silent = DiagonalSystem(torch.tensor([0.5]), torch.zeros(1, 40), torch.ones(40, 1))
    assert silent.hinf_norm() == 0.0
    assert (silent - silent).hinf_norm() == 0.0


def test_grid_resolves_every_pole(random_system) -> None:
    system = random_system(30, 1, 1, low=0.9, high=0.9999)
    grid = frequency_grid(system.log_A).numpy()
    assert grid[0] == 0.0
    assert grid[-1] == math.pi
    assert bool((np.diff(grid) > 0).all())
    for log_pole in system.log_A.numpy():
        distance = np.abs(grid - abs(log_pole.imag)).min()
        assert distance <= 0.5 * -log_pole.real


def test_peaks_are_refined() -> None:
    def gain(omega: torch.Tensor) -> torch.Tensor:
        return 1.0 / (0.01 + (omega - 1.23456789) ** 2) + 0.999 / (0.01 + (omega - 2.3) ** 2)

    grid = torch.linspace(0.0, math.pi, 40, dtype=torch.float64)
    peaks = highest_peaks(gain, grid, gain(grid), count=5, share=0.5)
    fine = torch.linspace(1.2, 1.27, 2_000_001, dtype=torch.float64)
    assert float(peaks.value[0]) == pytest.approx(float(gain(fine).max()), rel=1e-12)
    assert peaks.value.shape == (2,)


@pytest.mark.parametrize("side", [1e-2, 1e-6, 1e-10])
def test_peaks_are_refined_between_unequal_neighbours(side: float) -> None:
    """The nearest points are far on one side, where there are lower peaks, and close on the other."""

    def gain(omega: torch.Tensor) -> torch.Tensor:
        return 1.0 / (1.0 + ((omega - 1.0) / side) ** 2) + 0.9 / (1.0 + ((omega - 0.6) / 0.1) ** 2)

    grid = torch.tensor([0.0, 0.2, 1.0 - 0.5 * side, 1.0 + 0.6 * side, 3.0], dtype=torch.float64)
    peak = highest_peaks(gain, grid, gain(grid), count=1, share=0.9)
    fine = 1.0 + side * torch.linspace(-0.5, 0.5, 1_000_001, dtype=torch.float64)
    assert float(peak.value[0]) == pytest.approx(float(gain(fine).max()), rel=1e-11)


def test_points_that_rounding_tells_apart_are_one(random_system) -> None:
    system = random_system(5, 1, 1, low=0.9, high=0.99)
    omega = torch.tensor([0.7, 0.1, 0.3, 0.3 + 1e-16, 0.3 + 1e-15, 0.31], dtype=torch.float64)
    assert directions._distinct(omega, system).tolist() == pytest.approx([0.1, 0.3, 0.31, 0.7])
    forgetful = DiagonalSystem(torch.zeros(1), torch.ones(1, 1), torch.ones(1, 1))
    assert len(directions._distinct(omega, forgetful)) >= 1


def test_peak_at_the_end_of_the_range() -> None:
    grid = torch.linspace(0.0, math.pi, 9, dtype=torch.float64)
    peaks = highest_peaks(torch.cos, grid, torch.cos(grid), count=1, share=0.5)
    assert (float(peaks.omega[0]), float(peaks.value[0])) == (0.0, 1.0)


def test_spectral_norms() -> None:
    matrices = (
        torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.complex128) * 1e-160
    )
    expected = torch.linalg.svdvals(matrices)[:, 0]
    torch.testing.assert_close(spectral_norms(matrices), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(spectral_norms(matrices.mT), expected, rtol=1e-12, atol=0)
    assert not spectral_norms(torch.zeros(2, 3, 3, dtype=torch.complex128)).any()


@pytest.mark.parametrize("direct", [True, False])
def test_h2_is_the_energy_of_the_impulse_response(random_system, direct: bool) -> None:
    system = random_system(8, 3, 2)
    if not direct:
        system = DiagonalSystem(system.A, system.B, system.C)
    assert h2_norm(system) == pytest.approx(float(system.impulse_response(3000).norm()), rel=1e-12)


def test_h2_does_not_cancel() -> None:
    """D takes away the first sample of a fast mode: what is left is small and must be right."""
    A = torch.tensor([1e-6], dtype=torch.float64)
    system = DiagonalSystem(A, torch.ones(1, 1), torch.ones(1, 1), -torch.ones(1, 1))
    assert system.h2_norm() == pytest.approx(1e-6, rel=1e-9)
