from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import torch

from compressm.lti.arithmetic import (
    cauchy_denominators,
    complex_exp,
    complex_log,
    mixed_product,
    one_minus_exp,
    product,
    wrapped,
)

mp.mp.dps = 50


def _relative(value: complex, exact: mp.mpc) -> float:
    return float(abs(mp.mpc(value) - exact) / abs(exact))


@pytest.mark.parametrize("scale", [1e-15, 1e-8, 1e-3, 1.0, 30.0])
def test_one_minus_exp_keeps_all_digits(scale: float) -> None:
    rng = np.random.default_rng(0)
    exponents = -scale * rng.random(50) + 1j * scale * rng.standard_normal(50)
    for exponent, value in zip(exponents, one_minus_exp(exponents), strict=True):
        assert _relative(value, 1 - mp.exp(mp.mpc(complex(exponent)))) < 1e-15


def test_one_minus_exp_of_minus_infinity_is_one() -> None:
    assert one_minus_exp(np.array([complex(-math.inf, 1.0)]))[0] == 1.0


@pytest.mark.parametrize("gap", [1e-16, 1e-12, 1e-6, 0.3])
def test_complex_log_is_accurate_relative_to_the_distance_from_the_circle(gap: float) -> None:
    angles = np.random.default_rng(1).uniform(-math.pi, math.pi, 40)
    values = (1.0 - gap) * np.exp(1j * angles)
    for value, log in zip(values, complex_log(values), strict=True):
        exact = mp.log(mp.mpc(complex(value)))
        if exact.real != 0:
            assert float(abs((log.real - exact.real) / exact.real)) < 1e-14
        assert abs(log.imag - exact.imag) < 1e-15 * 4


def test_complex_log_far_from_the_circle_and_at_zero() -> None:
    values = np.array([1e-200 + 1e-190j, 0.1 - 0.2j, 3.0 + 4.0j])
    np.testing.assert_allclose(complex_log(values), np.log(values), rtol=1e-15)
    assert complex_log(np.array([0j]))[0].real == -math.inf


def test_complex_exp_is_real_on_the_axis() -> None:
    values = complex_exp(np.array([-0.5 + 0j, complex(-0.5, math.pi), complex(-0.5, -math.pi), -0.5 + 1j]))
    assert list(values.imag[:3]) == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(values, np.exp([-0.5, -0.5 + 1j * math.pi, -0.5 - 1j * math.pi, -0.5 + 1j]))


def test_wrapped_moves_by_exact_turns() -> None:
    angles = np.array([0.0, math.pi, -math.pi, 4.5, 6.28, -5.0, 100.0])
    for angle, result in zip(angles, wrapped(1j * angles).imag, strict=True):
        assert abs(result) <= math.pi
        turns = mp.nint((mp.mpf(angle) - mp.mpf(result)) / (2 * mp.pi))
        assert float(abs(mp.mpf(angle) - 2 * mp.pi * turns - mp.mpf(result))) < 3e-16
    assert wrapped(np.array([1j * math.pi]))[0].imag == math.pi


def test_cauchy_denominators_of_a_near_conjugate_product() -> None:
    log_A = np.array([complex(-1e-9, 4.5), complex(-2e-9, 2 * math.pi - 4.5)])
    exact = 1 - mp.exp(mp.mpc(complex(log_A[0])) + mp.mpc(complex(log_A[1])))
    assert _relative(cauchy_denominators(log_A, log_A)[0, 1], exact) < 1e-6  # the angles hold 1e-16 of 3e-9


def test_product_of_complex_and_real() -> None:
    rng = np.random.default_rng(2)
    left = rng.standard_normal((4, 3)) + 1j * rng.standard_normal((4, 3))
    right = rng.standard_normal((3, 5))
    np.testing.assert_allclose(product(left, right), left @ right, rtol=1e-14)
    np.testing.assert_allclose(product(left, right + 1j), left @ (right + 1j), rtol=1e-14)


@pytest.mark.parametrize("left", [torch.float64, torch.complex128])
@pytest.mark.parametrize("right", [torch.float64, torch.complex128])
def test_products_of_real_and_complex_matrices(left: torch.dtype, right: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 4, dtype=left, generator=generator)
    b = torch.randn(4, 5, dtype=right, generator=generator)
    expected = torch.from_numpy(np.einsum("ik,kj->ij", a.numpy(), b.numpy()))
    torch.testing.assert_close(mixed_product(a, b), expected, rtol=1e-14, atol=1e-14)
