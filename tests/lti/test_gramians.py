from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from compressm.lti import DiagonalSystem, controllability_factor, observability_factor
from compressm.lti import factors as factors_module
from compressm.lti import gramians as gramians_module
from compressm.lti.pivots import ConjugatePair, Spectrum


def _real_form(system: DiagonalSystem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``A``, ``B``, ``C`` of the real system in the coordinates (Re x, Im x)."""
    A, B, C = (tensor.numpy() for tensor in (system.A, system.B, system.C))
    dynamics = np.block([[np.diag(A.real), -np.diag(A.imag)], [np.diag(A.imag), np.diag(A.real)]])
    return dynamics, np.concatenate([B.real, B.imag]), np.concatenate([C.real, -C.imag], axis=1)


def test_closed_forms_solve_the_lyapunov_equations(random_system) -> None:
    system = random_system(9, 3, 2)
    A, B, C = (tensor.numpy() for tensor in (system.A, system.B, system.C))
    P = solve_discrete_lyapunov(np.diag(A), B @ B.conj().T)
    Q = solve_discrete_lyapunov(np.diag(A).conj().T, C.conj().T @ C)
    np.testing.assert_allclose(system.controllability_gramian(), P, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(system.observability_gramian(), Q, rtol=1e-10, atol=1e-10)


def test_closed_forms_are_the_sums(random_system) -> None:
    system = random_system(4, 2, 2, high=0.7)
    P, Q = torch.zeros(4, 4, dtype=torch.complex128), torch.zeros(4, 4, dtype=torch.complex128)
    reached, seen = system.B.clone(), system.C.clone()
    for _ in range(200):
        P, Q = P + reached @ reached.conj().T, Q + seen.conj().T @ seen
        reached, seen = system.A[:, None] * reached, seen * system.A
    torch.testing.assert_close(system.controllability_gramian(), P)
    torch.testing.assert_close(system.observability_gramian(), Q)


@pytest.mark.parametrize(("N", "H", "P"), [(1, 1, 1), (7, 1, 2), (9, 30, 4), (60, 3, 70), (110, 130, 2)])
def test_factors_give_the_gramians_row_by_row(random_system, N: int, H: int, P: int) -> None:
    system = random_system(N, H, P, high=0.99)
    for factor, gramian in (
        (controllability_factor(system, "complex"), system.controllability_gramian()),
        (observability_factor(system, "complex"), system.observability_gramian()),
    ):
        size = gramian.diagonal().real.sqrt()
        assert float(((factor @ factor.mH - gramian).abs() / size / size[:, None]).max()) < 1e-12
    A, B, C = _real_form(system)
    for factor, dynamics, source in (
        (controllability_factor(system), A, B @ B.T),
        (observability_factor(system), A.T, C.T @ C),
    ):
        assert factor.shape == (2 * N, 2 * N)
        residual = (
            dynamics @ (factor @ factor.mT).numpy() @ dynamics.T + source - (factor @ factor.mT).numpy()
        )
        assert np.abs(residual).max() < 1e-11 * np.abs(source).max() * 100


@pytest.mark.parametrize("panel", [1, 3, 1000])
def test_the_panel_width_does_not_matter(random_system, monkeypatch, panel: int) -> None:
    system = random_system(20, 3, 3)
    expected = controllability_factor(system)
    monkeypatch.setattr(factors_module, "PANEL", panel)
    torch.testing.assert_close(controllability_factor(system), expected, rtol=1e-10, atol=1e-10)


def test_dead_rows_stay_dead(random_system) -> None:
    system = random_system(6, 2, 2)
    B = system.B.clone()
    B[2] = 0.0
    cut = DiagonalSystem(system.A, B, system.C)
    for realization in ("real", "complex"):
        factor = controllability_factor(cut, realization)
        assert not factor[2].any()
        assert torch.isfinite(factor).all()


def test_real_pole_with_real_maps_is_one_state() -> None:
    system = DiagonalSystem(torch.tensor([0.5, -0.3]), torch.tensor([[1.0], [2.0]]), torch.ones(1, 2))
    factor = controllability_factor(system)
    assert torch.linalg.matrix_rank(factor) == 2
    assert float(factor[2:].abs().max()) < 1e-15


def test_weights_stand_in_the_gramian(random_system) -> None:
    system = random_system(5, 3, 2)
    generator = torch.Generator().manual_seed(3)
    inward = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    outward = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    weighted = DiagonalSystem(
        system.A, system.B @ inward.to(system.B.dtype), outward.T.to(system.C.dtype) @ system.C
    )
    R = controllability_factor(system, "complex", input_factor=inward)
    L = observability_factor(system, "complex", output_factor=outward)
    torch.testing.assert_close(R @ R.mH, weighted.controllability_gramian())
    torch.testing.assert_close(L @ L.mH, weighted.observability_gramian())


def test_errors(random_system) -> None:
    system = random_system(3, 2, 2)
    with pytest.raises(ValueError, match="realization must be 'real' or 'complex', got 'modal'"):
        controllability_factor(system, "modal")
    with pytest.raises(ValueError, match=r"input_factor must be real with shape \(2, m\), got \(3, 3\)"):
        controllability_factor(system, input_factor=torch.eye(3))
    with pytest.raises(ValueError, match="output_factor holds values that are not finite"):
        observability_factor(system, output_factor=torch.full((2, 1), torch.nan))


def test_a_conjugate_pair_needs_both_products() -> None:
    spectrum = Spectrum.of(np.array([0.5j]), np.log(np.array([0.5j])), real=False)
    with pytest.raises(ValueError, match="build the spectrum with real=True"):
        ConjugatePair(spectrum, 0, np.array([1.0 + 0j]))


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_forming_a_well_conditioned_gramian_loses_nothing(
    random_system, monkeypatch, realization: str
) -> None:
    system = random_system(24, 40, 30, low=0.9, high=0.9999)
    tried = _watch_cholesky(monkeypatch)
    formed = system.hankel_singular_values(realization)
    assert tried == [True, True]
    monkeypatch.setattr(gramians_module, "_cholesky_factor", lambda *_: None)
    built = system.hankel_singular_values(realization)
    # Of every value, the smallest too, relative to itself.
    assert float(((formed - built).abs() / built).max()) < 1e-12


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_nearly_equal_states_are_not_formed(monkeypatch, realization: str) -> None:
    generator = torch.Generator().manual_seed(3)
    log_A = torch.complex(
        -torch.rand(10, generator=generator) - 0.01, 6 * torch.rand(10, generator=generator)
    )
    B = torch.randn(10, 12, generator=generator, dtype=torch.complex128)
    log_A[1], B[1] = log_A[0] + 1e-6, B[0] * (1 + 1e-6)
    system = DiagonalSystem(None, B, B.mH.contiguous(), log_A=log_A)
    tried = _watch_cholesky(monkeypatch)
    factor = controllability_factor(system, realization)
    assert tried == [False]
    if realization == "complex":
        gramian = system.controllability_gramian()
        size = gramian.diagonal().real.sqrt()
        assert float(((factor @ factor.mH - gramian).abs() / size / size[:, None]).max()) < 1e-12


def test_a_silent_state_is_not_formed() -> None:
    B = torch.eye(3, dtype=torch.complex128)
    B[1] = 0.0
    system = DiagonalSystem(torch.tensor([0.5, 0.4, 0.3]), B, torch.ones(1, 3))
    assert float(controllability_factor(system, "complex")[1].abs().max()) == 0.0


def _watch_cholesky(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    tried: list[bool] = []
    form = gramians_module._cholesky_factor

    def watched(spectrum: Spectrum, rows: torch.Tensor) -> torch.Tensor | None:
        factor = form(spectrum, rows)
        tried.append(factor is not None)
        return factor

    monkeypatch.setattr(gramians_module, "_cholesky_factor", watched)
    return tried
