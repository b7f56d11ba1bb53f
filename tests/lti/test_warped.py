"""Projection in warped time: Gramians against integrals, bases against what must hold exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad_vec
from scipy.linalg import solve_continuous_lyapunov, subspace_angles
from torch import Tensor

from compressm.lti.warped import balance_warped, warped_gramians


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gramian(*shape: int, seed: int = 0) -> Tensor:
    factor = random(*shape, seed=seed)
    return factor @ factor.mT


def test_gramians_are_integrals_and_solve_lyapunovs_equation() -> None:
    rates, W_B, W_C = -random(3, 4).exp(), random(4, 5, seed=1), random(4, 5, seed=2)
    P, Q = warped_gramians(rates, W_B, W_C)
    expected = 0.0
    for a in rates:
        expected = expected + quad_vec(
            lambda t, a=a: ((a * t).exp()[:, None] * W_B @ W_B.mT * (a * t).exp()).numpy(), 0, 200
        )[0]  # fmt: skip
    assert torch.allclose(P, torch.as_tensor(expected), rtol=1e-8)
    solved = sum(solve_continuous_lyapunov(torch.diag(a).numpy(), -(W_C @ W_C.mT).numpy()) for a in rates)
    assert torch.allclose(Q, torch.as_tensor(solved), rtol=1e-10)


def test_a_rate_that_is_not_negative_is_refused() -> None:
    with pytest.raises(ValueError, match=r"negative; the largest is 0\.5"):
        warped_gramians(torch.tensor([[-1.0, 0.5]]), torch.ones(2, 1), torch.ones(2, 1))


def test_values_are_roots_of_the_eigenvalues_of_the_product() -> None:
    P, Q = gramian(6, 9, seed=1), gramian(6, 7, seed=2)
    values = balance_warped(P, Q, -random(2, 6).exp()).hankel_singular_values
    eigenvalues = torch.linalg.eigvals(P @ Q).real.sort(descending=True).values
    assert torch.allclose(values, eigenvalues.sqrt(), rtol=1e-9)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 7), st.data())
def test_a_basis_is_orthonormal_diagonal_on_average_and_stable(
    seed: int, states: int, data: st.DataObject
) -> None:
    order = data.draw(st.integers(1, states))
    ranks = [data.draw(st.integers(0, states)) for _ in range(2)]
    P, Q = (gramian(states, rank, seed=seed + i) for i, rank in enumerate(ranks))
    rates = -random(3, states, seed=seed + 2).exp()
    reduction = balance_warped(P, Q, rates).truncate(order)
    Z = reduction.basis
    assert reduction.order == reduction.kept == order
    assert torch.allclose(Z @ Z.mT, torch.eye(order, dtype=torch.float64), atol=1e-10)
    mean = Z @ torch.diag(rates.mean(dim=0)) @ Z.mT
    assert torch.allclose(mean, torch.diag(mean.diagonal()), atol=1e-10 * float(rates.abs().max()))
    folded = reduction.rates(rates)
    assert torch.allclose(folded, torch.stack([(Z @ torch.diag(a) @ Z.mT).diagonal() for a in rates]))
    slack = 1e-12 * rates.abs().max()
    assert bool((folded <= rates.amax(dim=1, keepdim=True) + slack).all())
    assert bool((folded >= rates.amin(dim=1, keepdim=True) - slack).all())


def test_states_never_reached_or_never_seen_are_dropped_as_they_are() -> None:
    rates, W_B, W_C = -random(4, 6).exp(), random(6, 8, seed=1), random(6, 8, seed=2)
    W_B[[1]] = 0.0
    W_C[[0, 4]] = 0.0
    balancing = balance_warped(*warped_gramians(rates, W_B, W_C), rates)
    Z = balancing.truncate(3).basis
    assert int((balancing.hankel_singular_values > 1e-8).sum()) == 3
    # Mean rates decide the order; signs are made positive.
    assert torch.allclose(
        Z.sort(dim=0).values[-1], torch.tensor([0.0, 0, 1, 1, 0, 1], dtype=Z.dtype), atol=1e-9
    )
    all_but_one = balancing.truncate(5).basis
    assert torch.allclose(all_but_one.mT @ all_but_one @ Z.mT, Z.mT, atol=1e-9)


def test_between_right_and_left_directions_lies_the_compromise() -> None:
    """With one state left it is the bisector of the leading balanced directions."""
    P, Q = gramian(3, 5, seed=3), gramian(3, 5, seed=4)
    Z = balance_warped(P, Q, -torch.ones(1, 3)).truncate(1).basis[0]
    values, right = torch.linalg.eig(P @ Q)
    left_values, left = torch.linalg.eig(Q @ P)
    r = right.real[:, values.real.argmax()]
    l = left.real[:, left_values.real.argmax()]  # noqa: E741
    bisector = r / r.norm() + torch.sign(r @ l) * l / l.norm()
    assert abs(Z @ bisector) == pytest.approx(float(bisector.norm()), rel=1e-9)


def test_where_both_gramians_agree_it_is_their_leading_eigenvectors() -> None:
    P = gramian(6, 9, seed=5)
    Z = balance_warped(P, 3.0 * P, -random(2, 6).exp()).truncate(2).basis
    leading = torch.linalg.eigh(P).eigenvectors[:, -2:]
    assert max(subspace_angles(Z.mT.numpy(), leading.numpy())) < 1e-6


def test_wrong_sizes_and_values_are_refused() -> None:
    balancing = balance_warped(gramian(3, 4), gramian(3, 4), -torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"1\.\.3"):
        balancing.truncate(4)
    with pytest.raises(TypeError, match="exactly one"):
        balancing.truncate(2, keep=2)
    with pytest.raises(ValueError, match="observability"):
        balance_warped(gramian(3, 4), torch.full((3, 3), float("nan")), -torch.ones(2, 3))
