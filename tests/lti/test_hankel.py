from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymor.core.logger import set_log_levels
from pymor.models.iosys import LTIModel

from compressm.lti import DiagonalSystem

set_log_levels({"pymor": "ERROR"})
REALIZATIONS = ("real", "complex")
FAMILIES = (
    "disc",
    "ring",
    "near_circle",
    "clustered",
    "repeated",
    "rank_deficient",
    "badly_scaled",
    "real_poles",
    "near_real",
    "merging",
    "all_pass",
    "relaxation",
)


def _exact(log_A: np.ndarray, B: np.ndarray, C: np.ndarray, realization: str) -> list[mp.mpf]:
    """Roots of the eigenvalues of P Q, with the Gramians of the (conjugate-closed) system, in 50 digits."""
    with mp.workdps(50):
        if realization == "real":
            log_A, B = np.concatenate([log_A, log_A.conj()]), np.concatenate([B, B.conj()])
            C = np.concatenate([C, C.conj()], axis=1) / 2
        poles = [mp.exp(mp.mpc(complex(value))) for value in log_A]
        inputs, outputs = mp.matrix(B.tolist()), mp.matrix(C.tolist())
        P, Q = inputs * inputs.H, outputs.H * outputs
        for i, first in enumerate(poles):
            for j, second in enumerate(poles):
                P[i, j] /= 1 - first * mp.conj(second)
                Q[i, j] /= 1 - mp.conj(first) * second
        values, vectors = mp.eighe(P)
        root = vectors * mp.diag([mp.sqrt(max(value, 0)) for value in values])
        squares = mp.eighe(root.H * Q * root, eigvals_only=True)
        return sorted((mp.sqrt(max(square, 0)) for square in squares), reverse=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_against_fifty_digits(families, family: str) -> None:
    for seed in range(2):
        m = families.draw(family, seed)
        log_A, B, C = m.log_A[:6], m.B[:6], m.C[:, :6]
        arrays = (torch.from_numpy(np.ascontiguousarray(array)) for array in (B, C))
        system = DiagonalSystem(None, *arrays, log_A=torch.from_numpy(log_A))
        for realization in REALIZATIONS:
            exact = _exact(log_A, B, C, realization)
            found = system.hankel_singular_values(realization).tolist()
            assert len(found) == len(exact)
            for value, true in zip(found, exact, strict=True):
                assert abs(value - true) <= 1e-13 * exact[0], (seed, realization)
                if true > 1e-4 * exact[0]:
                    assert abs(value - true) <= 1e-9 * true


@pytest.mark.parametrize(("N", "H", "P"), [(6, 2, 3), (15, 1, 1)])
def test_against_pymor(random_system, N: int, H: int, P: int) -> None:
    system = random_system(N, H, P)
    A, B, C = (tensor.numpy() for tensor in (system.A, system.B, system.C))
    dynamics = np.block([[np.diag(A.real), -np.diag(A.imag)], [np.diag(A.imag), np.diag(A.real)]])
    model = LTIModel.from_matrices(
        dynamics, np.concatenate([B.real, B.imag]), np.concatenate([C.real, -C.imag], axis=1), sampling_time=1
    )
    expected = model.hsv()
    found = system.hankel_singular_values().numpy()
    assert found.shape == (2 * N,)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8 * expected[0])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sampled_from(FAMILIES), st.integers(0, 10_000), st.sampled_from(REALIZATIONS))
def test_invariances(draw, family: str, seed: int, realization: str) -> None:
    """Scaling and order of the states, and unitary mixing of inputs and outputs, change no value."""
    system = draw(family, seed)
    rng = np.random.default_rng(seed)
    order = torch.from_numpy(rng.permutation(system.state_dim))
    scale = torch.from_numpy(
        10.0 ** rng.uniform(-5, 5, system.state_dim) * np.exp(1j * rng.uniform(0, 6, len(order)))
    )
    mix_in, mix_out = (
        torch.from_numpy(np.linalg.qr(rng.standard_normal((size, size)))[0]).to(torch.complex128)
        for size in (system.input_dim, system.output_dim)
    )
    moved = DiagonalSystem(
        None,
        (system.B * scale[:, None])[order] @ mix_in,
        mix_out @ (system.C / scale)[:, order],
        log_A=system.log_A[order],
    )
    expected = system.hankel_singular_values(realization)
    found = moved.hankel_singular_values(realization)
    assert float((found - expected).abs().max()) <= 1e-11 * float(expected[0])
    assert bool((found[1:] <= found[:-1]).all())


def test_complex_values_are_those_of_the_complex_map() -> None:
    """One state: sigma = |b| |c| / (1 - |l|^2); its real map has two."""
    system = DiagonalSystem(torch.tensor([0.6j]), torch.tensor([[2.0]]), torch.tensor([[3.0]]))
    assert system.hankel_singular_values("complex").tolist() == pytest.approx([6.0 / 0.64])
    # real map: h_k = 6 Re((0.6j)^k), a Hankel matrix of two interleaved geometric series of ratio -0.36
    expected = sorted([6.0 / (1 - 0.36**2), 6.0 * 0.36 / (1 - 0.36**2)], reverse=True)
    assert system.hankel_singular_values("real").tolist() == pytest.approx(expected)


def test_no_input_no_values(random_system) -> None:
    system = random_system(4, 2, 2)
    silent = DiagonalSystem(system.A, torch.zeros(4, 2), system.C)
    assert silent.hankel_singular_values("real").tolist() == [0.0] * 8
    assert silent.hankel_singular_values("complex").tolist() == [0.0] * 4


def test_unknown_realization(random_system) -> None:
    with pytest.raises(ValueError, match="'real' or 'complex', got 'both'"):
        random_system(2, 1, 1).hankel_singular_values("both")
