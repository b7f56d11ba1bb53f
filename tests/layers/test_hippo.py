"""The HiPPO matrices against their definition, and the spectra against closed forms."""

import math

import pytest
import torch

from compressm.layers.hippo import hippo_legs, hippo_legs_normal, legs_modes, s4d_eigenvalues


def test_legs_is_its_definition_entry_by_entry() -> None:
    A, B = hippo_legs(7)
    for n in range(7):
        assert B[n].item() == pytest.approx(math.sqrt(2 * n + 1), rel=1e-15)
        for k in range(7):
            expected = -math.sqrt((2 * n + 1) * (2 * k + 1)) if n > k else -(n + 1) if n == k else 0.0
            assert A[n, k].item() == pytest.approx(expected, rel=1e-15)


def test_legs_projects_on_legendre_polynomials() -> None:
    """For a constant input the state tends to the coefficients of a constant: the first one only."""
    A, B = hippo_legs(6)
    settled = torch.linalg.solve(A, -B)
    assert torch.allclose(settled, torch.eye(6, dtype=torch.float64)[0], atol=1e-12)


def test_the_normal_part_is_half_the_identity_plus_a_skew_matrix() -> None:
    normal = hippo_legs_normal(12)
    skew = normal + 0.5 * torch.eye(12, dtype=torch.float64)
    assert torch.allclose(skew, -skew.T, atol=1e-13)
    A, B = hippo_legs(12)
    assert torch.linalg.matrix_rank(normal - A) == 1
    assert torch.allclose(torch.trace(normal - A), 0.5 * (B @ B))


@pytest.mark.parametrize(("states", "blocks"), [(1, 1), (8, 1), (8, 4), (48, 1), (12, 3)])
def test_modes_diagonalise_the_normal_part(states: int, blocks: int) -> None:
    values, vectors = legs_modes(states, blocks)
    assert values.shape == (states,)
    assert (values.imag > 0).all()
    assert torch.equal(values.real, torch.full((states,), -0.5, dtype=torch.float64))
    normal = torch.block_diag(*[hippo_legs_normal(2 * states // blocks)] * blocks).to(torch.complex128)
    scale = normal.abs().max()
    assert torch.allclose(normal @ vectors, vectors * values, atol=1e-12 * scale)
    # With their conjugates they are an orthonormal basis: no eigenvalue is missing or counted twice.
    basis = torch.cat((vectors, vectors.conj()), dim=1)
    assert torch.allclose(basis.mH @ basis, torch.eye(2 * states, dtype=torch.complex128), atol=1e-12)


def test_lin_and_inv_are_their_closed_forms() -> None:
    lin, inv = s4d_eigenvalues(5, "lin"), s4d_eigenvalues(5, "inv")
    for n in range(5):
        assert complex(lin[n]) == pytest.approx(complex(-0.5, math.pi * n), rel=1e-15)
        assert complex(inv[n]) == pytest.approx(
            complex(-0.5, 10 / math.pi * (10 / (2 * n + 1) - 1)), rel=1e-14
        )


def test_inv_approximates_the_spectrum_of_legs() -> None:
    """What S4D-Inv was made for: its largest frequency approaches that of LegS as the size grows."""
    ratios = []
    for states in (16, 64):
        legs = s4d_eigenvalues(states, "legs").imag.max()
        ratios.append(float(s4d_eigenvalues(states, "inv").imag.max() / legs))
    assert abs(ratios[1] - 1) < abs(ratios[0] - 1) < 0.1


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="3 blocks cannot share 8 states"):
        legs_modes(8, 3)
    with pytest.raises(ValueError, match="'fourier'; choose one of legs, lin, inv"):
        s4d_eigenvalues(4, "fourier")  # type: ignore[arg-type]
