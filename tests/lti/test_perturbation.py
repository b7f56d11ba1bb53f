from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compressm.lti import DiagonalSystem, balance, singular_perturbation

REALIZATIONS = ("real", "complex")


def _settled_by_hand(system: DiagonalSystem, keep: int) -> np.ndarray:
    """Impulse response of the textbook formulas on the shifted real system, with dense NumPy algebra."""
    A, B, C = (tensor.numpy() for tensor in (system.A, system.B, system.C))
    dynamics = np.block([[np.diag(A.real), -np.diag(A.imag)], [np.diag(A.imag), np.diag(A.real)]])
    inputs, outputs = np.concatenate([B.real, B.imag]), np.concatenate([C.real, -C.imag], axis=1)
    D, outputs = system.direct_matrix().numpy() + outputs @ inputs, outputs @ dynamics
    P = sum(
        np.linalg.matrix_power(dynamics, k) @ inputs @ inputs.T @ np.linalg.matrix_power(dynamics, k).T
        for k in range(400)
    )
    Q = sum(
        np.linalg.matrix_power(dynamics, k).T @ outputs.T @ outputs @ np.linalg.matrix_power(dynamics, k)
        for k in range(400)
    )
    R, L = np.linalg.cholesky(P), np.linalg.cholesky(Q)
    U, sigma, Vh = np.linalg.svd(L.T @ R)
    right, left = R @ Vh.T / np.sqrt(sigma), (U / np.sqrt(sigma)).T @ L.T
    A, B, C = left @ dynamics @ right, left @ inputs, outputs @ right
    k = keep
    M = np.linalg.inv(np.eye(len(A) - k) - A[k:, k:])
    Ar, Br = A[:k, :k] + A[:k, k:] @ M @ A[k:, :k], B[:k] + A[:k, k:] @ M @ B[k:]
    Cr, Dr = C[:, :k] + C[:, k:] @ M @ A[k:, :k], D + C[:, k:] @ M @ B[k:]
    return np.stack([Dr] + [Cr @ np.linalg.matrix_power(Ar, i) @ Br for i in range(20)])


@pytest.mark.parametrize("keep", [2, 3, 5])
def test_against_the_textbook(random_system, keep: int) -> None:
    system = random_system(4, 2, 2, 8, high=0.8)
    reduction = singular_perturbation(system, keep=keep)
    assert reduction.kept == keep
    found = reduction.system.impulse_response(21).numpy()
    np.testing.assert_allclose(found, _settled_by_hand(system, keep), atol=1e-8)


@pytest.mark.parametrize("realization", REALIZATIONS)
def test_maps_bound_and_rest(random_system, realization: str) -> None:
    system = random_system(9, 2, 3, 1)
    shifted = DiagonalSystem(system.A, system.B, system.C * system.A)
    for order in (1, 4, 8):
        reduction = singular_perturbation(system, order, realization)
        torch.testing.assert_close(
            reduction.hankel_singular_values,
            shifted.hankel_singular_values(realization),
            rtol=1e-9,
            atol=1e-12,
        )
        assert reduction.error <= reduction.error_bound
        at_rest = torch.zeros(1, dtype=torch.float64)
        torch.testing.assert_close(
            reduction.system.frequency_response(at_rest),
            system.frequency_response(at_rest),
            rtol=1e-10,
            atol=1e-10,
        )
        inputs, outputs = system.B, system.C
        if realization == "real":
            inputs = torch.cat([inputs.real, inputs.imag]).to(torch.complex128)
            outputs = torch.cat([outputs.real, -outputs.imag], dim=1).to(torch.complex128)
            outputs = outputs * 2.0
        C = outputs @ reduction.right
        C[:, reduction.real_modes] /= 2.0 if realization == "real" else 1.0
        torch.testing.assert_close(reduction.left @ inputs, reduction.system.B)
        torch.testing.assert_close(C, reduction.system.C)


def test_the_direct_term_becomes_a_matrix(random_system) -> None:
    system = random_system(5, 2, 2)
    vector = DiagonalSystem(system.A, system.B, system.C, torch.tensor([1.0, 2.0]))
    assert singular_perturbation(vector, 3).system.D.shape == (2, 2)


def test_full_order_changes_nothing(random_system) -> None:
    system = random_system(5, 2, 2)
    reduction = singular_perturbation(system, 5)
    torch.testing.assert_close(reduction.system.impulse_response(30), system.impulse_response(30))


def test_memoryless_system_becomes_its_direct_term() -> None:
    system = DiagonalSystem(torch.zeros(2), torch.ones(2, 1), torch.ones(1, 2), torch.ones(1, 1))
    reduction = singular_perturbation(system, 1)
    assert (reduction.kept, reduction.limited_by) == (0, "rank")
    assert "no memory" in reduction.note
    assert reduction.system.impulse_response(3).flatten().tolist() == pytest.approx([3.0, 0.0, 0.0])


def test_eigenvalue_at_zero_is_refused() -> None:
    """A pole at 1e-8 that matters: its output cannot be read from the updated state."""
    log_A = torch.tensor([math.log(1e-8), math.log(0.5)], dtype=torch.float64)
    C = torch.tensor([[1e8, 0.0], [0.0, 1.0]], dtype=torch.float64)
    system = DiagonalSystem(None, torch.eye(2), C, log_A=log_A)
    with pytest.raises(
        ValueError, match=r"reduced eigenvalue has modulus 1.00e-08 < 1e-06.*balanced_truncation"
    ):
        singular_perturbation(system, 2)
    assert balance(system).truncate(2).order == 2


def test_errors(random_system) -> None:
    with pytest.raises(TypeError, match="exactly one of order"):
        singular_perturbation(random_system(3, 1, 1))
    with pytest.raises(ValueError, match=r"order must be in 1..3"):
        singular_perturbation(random_system(3, 1, 1), 4)
