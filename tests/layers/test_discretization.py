"""Discretisation against SciPy on the equivalent real systems, and its exact inverse in the corners."""

import math

import numpy as np
import pytest
import scipy.signal
import torch

from compressm.layers.discretization import continuous_eigenvalues, discretize, initial_log_dt

METHODS = ("zoh", "bilinear")


def scipy_discrete(a: complex, dt: float, method: str) -> tuple[complex, complex]:
    """Eigenvalue and input factor of x' = a x + u from the real 2 x 2 system of (Re x, Im x)."""
    A = np.array([[a.real, -a.imag], [a.imag, a.real]])
    B = np.array([[1.0], [0.0]])
    discrete = scipy.signal.cont2discrete((A, B, np.eye(2), np.zeros((2, 1))), dt, method)
    Ad, Bd = discrete[0], discrete[1]
    if method == "bilinear":
        # SciPy's bilinear form has its state halfway between two steps; in ours the input enters at once.
        Bd = np.linalg.solve(np.eye(2) - 0.5 * dt * A, B) * dt
    return complex(Ad[0, 0], Ad[1, 0]), complex(Bd[0, 0], Bd[1, 0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("a", [-0.5 + 3.0j, -2.0 + 0.0j, -0.01 + 40.0j, -30.0 - 5.0j])
@pytest.mark.parametrize("dt", [1e-3, 0.1, 0.9])
def test_against_scipy(method: str, a: complex, dt: float) -> None:
    log_real, imag, log_dt = (
        torch.tensor([x], dtype=torch.float64) for x in (math.log(-a.real), a.imag, math.log(dt))
    )
    discrete = discretize(log_real, imag, log_dt, method)  # type: ignore[arg-type]
    eigenvalue, factor = scipy_discrete(a, dt, method)
    re, im = discrete.eigenvalues()
    assert complex(re, im) == pytest.approx(eigenvalue, rel=1e-12, abs=1e-15)
    assert complex(discrete.factor()[0]) == pytest.approx(factor, rel=1e-11)
    assert complex(torch.exp(discrete.log_eigenvalues()[0])) == pytest.approx(
        eigenvalue, rel=1e-12, abs=1e-15
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decay", [1e-12, 1e-6, 0.1, 3.0, 30.0])
@pytest.mark.parametrize("angle", [0.0, 1e-7, 1.0, 3.1, math.pi, -2.0])
def test_the_way_back_is_exact(method: str, decay: float, angle: float) -> None:
    log_eigenvalue = torch.tensor([complex(-decay, angle)], dtype=torch.complex128)
    dt = torch.tensor([0.013], dtype=torch.float64)
    log_real, imag = continuous_eigenvalues(log_eigenvalue, dt, method)  # type: ignore[arg-type]
    again = discretize(log_real, imag, torch.log(dt), method)  # type: ignore[arg-type]
    # The distance from the unit circle, which is what a slow mode is about, to full relative accuracy.
    tolerance = 1e-9 if method == "zoh" or decay < 1.0 else 1e-2
    assert again.log_modulus.item() == pytest.approx(-decay, rel=tolerance)
    assert abs(np.exp(complex(again.log_eigenvalues()[0])) - np.exp(complex(-decay, angle))) < 1e-14
    if angle in (0.0, math.pi) and method == "bilinear":
        assert imag.item() == 0.0
    if angle == math.pi and method == "zoh":
        assert imag.item() == pytest.approx(math.pi / 0.013)


@pytest.mark.parametrize("method", METHODS)
def test_a_zero_eigenvalue_becomes_the_fastest_decay(method: str) -> None:
    log_eigenvalue = torch.tensor([complex(-math.inf, 0.0), complex(-400.0, math.pi)], dtype=torch.complex128)
    dt = torch.full((2,), 0.05, dtype=torch.float64)
    log_real, imag = continuous_eigenvalues(log_eigenvalue, dt, method)  # type: ignore[arg-type]
    log_real.requires_grad_()
    discrete = discretize(log_real, imag, torch.log(dt), method)  # type: ignore[arg-type]
    assert (discrete.log_modulus <= -30).all()
    assert torch.isfinite(discrete.log_modulus).all()
    sum(part.sum() for part in (*discrete.eigenvalues(), *discrete[2:])).backward()  # type: ignore[union-attr]
    assert torch.isfinite(log_real.grad).all()


@pytest.mark.parametrize("method", METHODS)
def test_gradients(method: str) -> None:
    torch.manual_seed(0)
    log_real = torch.randn(6, dtype=torch.float64).requires_grad_()
    imag = (5 * torch.randn(6, dtype=torch.float64)).requires_grad_()
    log_dt = torch.empty(6, dtype=torch.float64).uniform_(-4, -1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *x: tuple(discretize(*x, method)),  # type: ignore[arg-type]
        (log_real, imag, log_dt),
    )


def test_steps_are_log_uniform() -> None:
    torch.manual_seed(1)
    log_dt = initial_log_dt("S5", 20_000, 1e-3, 1e-1)
    assert log_dt.min() >= math.log(1e-3)
    assert log_dt.max() <= math.log(1e-1)
    quarters = torch.histc(log_dt, 4, math.log(1e-3), math.log(1e-1)) / 20_000
    assert torch.allclose(quarters, torch.full((4,), 0.25), atol=0.02)
    with pytest.raises(ValueError, match=r"S5: dt_min=0.2 and dt_max=0.1"):
        initial_log_dt("S5", 3, 0.2, 0.1)
