from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from pymor.core.logger import set_log_levels
from pymor.models.iosys import LTIModel
from pymor.reductors.bt import BTReductor

from compressm.lti import (
    DiagonalSystem,
    Reduction,
    ReductionWarning,
    balance,
    balanced_truncation,
    controllability_factor,
    error_bound,
    modes,
    observability_factor,
)
from compressm.lti.modes import eigenmodes

set_log_levels({"pymor": "ERROR"})
REALIZATIONS = ("real", "complex")


def _real_form(system: DiagonalSystem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    A, B, C = (tensor.numpy() for tensor in (system.A, system.B, system.C))
    dynamics = np.block([[np.diag(A.real), -np.diag(A.imag)], [np.diag(A.imag), np.diag(A.real)]])
    return dynamics, np.concatenate([B.real, B.imag]), np.concatenate([C.real, -C.imag], axis=1)


def _gain(system: DiagonalSystem, *, complex_map: bool = False) -> float:
    """Largest gain on a dense grid; ``complex_map``: of ``u -> C x`` instead of its real part."""
    omega = np.linspace(-math.pi, math.pi, 4001) if complex_map else np.linspace(0.0, math.pi, 2001)
    if not complex_map:
        return float(
            np.linalg.norm(system.frequency_response(torch.from_numpy(omega)).numpy(), 2, (1, 2)).max()
        )
    A, B, C = (tensor.numpy() for tensor in (system.A, system.B, system.C))
    resolvent = 1.0 / (1.0 - A * np.exp(-1j * omega)[:, None])
    return float(np.linalg.norm(np.einsum("pn,fn,nh->fph", C, resolvent, B), 2, (1, 2)).max())


@pytest.mark.parametrize("keep", [1, 4, 7])
def test_against_pymor(random_system, keep: int) -> None:
    system = random_system(6, 2, 3, 4)
    reduction = balance(system).truncate(keep=keep)
    model = LTIModel.from_matrices(*_real_form(system), sampling_time=1)
    A, B, C = BTReductor(model).reduce(keep, projection="sr").to_matrices()[:3]
    expected = np.stack([C @ np.linalg.matrix_power(A, k) @ B for k in range(40)])
    found = reduction.system.impulse_response(40).numpy()
    found[0] -= system.D.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-7 * np.abs(expected).max())
    assert reduction.kept == keep


@pytest.mark.parametrize("realization", REALIZATIONS)
def test_error_stays_within_the_bound(random_system, realization: str) -> None:
    system = random_system(12, 2, 2, 7)
    balancing = balance(system, realization)
    sigma = balancing.hankel_singular_values
    previous = math.inf
    for keep in range(1, len(sigma)):
        reduction = balancing.truncate(keep=keep)
        assert reduction.error_bound == pytest.approx(2.0 * float(sigma[keep:].sum()))
        assert _gain(system - reduction.system) <= reduction.error * (1 + 1e-9)
        assert reduction.error <= reduction.error_bound
        assert reduction.error_bound <= previous
        previous = reduction.error_bound


def test_complex_form_bounds_the_complex_map_too(random_system) -> None:
    system = random_system(8, 2, 2, 3)
    plain = DiagonalSystem(system.A, system.B, system.C)
    for order in (2, 5):
        reduction = balance(plain, "complex").truncate(order)
        difference = plain - reduction.system
        assert _gain(difference, complex_map=True) <= reduction.error_bound
        assert reduction.error <= _gain(difference, complex_map=True) * (1 + 1e-9)


@pytest.mark.parametrize("realization", REALIZATIONS)
@pytest.mark.parametrize("order", [1, 3, 6, 9])
def test_maps_give_the_reduced_system(random_system, realization: str, order: int) -> None:
    system = random_system(9, 3, 2, 1)
    reduction = balance(system, realization).truncate(order)
    X, Y, reduced = reduction.right, reduction.left, reduction.system
    if realization == "complex":
        inputs, outputs, double = system.B, system.C, torch.ones(reduction.order)
        assert not reduction.real_modes.any()
        full_X, full_Y = X, Y
    else:
        inputs = torch.cat([system.B.real, system.B.imag]).to(X.dtype)
        outputs = torch.cat([system.C.real, -system.C.imag], dim=1).to(X.dtype)
        double = torch.where(reduction.real_modes, 1.0, 2.0)
        pairs = ~reduction.real_modes
        full_X, full_Y = torch.cat([X, X[:, pairs].conj()], dim=1), torch.cat([Y, Y[pairs].conj()])
        assert reduction.kept == full_X.shape[1]
        assert not X[:, reduction.real_modes].imag.any()
        assert not reduced.B[reduction.real_modes].imag.any()
        assert not reduced.A[reduction.real_modes].imag.any()
        assert bool((reduced.A[pairs].imag > 0).all())
        assert bool(((reduced.log_A.imag >= 0) & (reduced.log_A.imag <= math.pi)).all())
    torch.testing.assert_close(full_Y @ full_X, torch.eye(len(full_Y), dtype=X.dtype), rtol=0, atol=1e-10)
    torch.testing.assert_close(Y @ inputs, reduced.B, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outputs @ X * double, reduced.C, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(reduced.B.norm(dim=1), reduced.C.norm(dim=0))
    torch.testing.assert_close(reduced.D, system.D, rtol=0, atol=0)


@pytest.mark.parametrize("realization", REALIZATIONS)
def test_nothing_is_lost_at_full_order(random_system, realization: str) -> None:
    system = random_system(10, 3, 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reduction = balanced_truncation(system, 10, realization=realization)
    assert (reduction.order, reduction.limited_by, reduction.note) == (10, None, "")
    assert reduction.error_bound == 0.0
    torch.testing.assert_close(
        reduction.system.impulse_response(60), system.impulse_response(60), rtol=1e-10, atol=1e-11
    )
    assert reduction.error < 1e-10 * float(reduction.hankel_singular_values[0])


def test_moments_transported_at_full_order_are_the_gradients(random_system) -> None:
    """The adjoint maps of a loss's gradient equal the gradient taken in the new coordinates."""
    system = random_system(5, 2, 3, 2)
    reduction = balance(system).truncate(5)
    target = torch.randn(12, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gradients(A, B, C):
        B, C = B.clone().requires_grad_(), C.clone().requires_grad_()
        powers = A ** torch.arange(12)[:, None]
        ((torch.einsum("pn,kn,nh->kph", C, powers, B).real - target) ** 2).sum().backward()
        return B.grad, C.grad

    old_B, old_C = gradients(system.A, system.B, system.C)
    new_B, new_C = gradients(reduction.system.A, reduction.system.B, reduction.system.C)
    X, Y = reduction.right, reduction.left
    assert not reduction.real_modes.any()
    moved_B = 2.0 * X.mH @ torch.cat([old_B.real, old_B.imag]).to(X.dtype)
    moved_C = torch.cat([old_C.real, -old_C.imag], dim=1).to(X.dtype) @ Y.mH
    torch.testing.assert_close(moved_B, new_B, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moved_C, new_C, rtol=1e-10, atol=1e-10)


def test_rescaling_changes_coordinates_only(random_system) -> None:
    reduction = balance(random_system(6, 2, 2)).truncate(4)
    scale = torch.exp(torch.linspace(-1, 1, reduction.order) + 1j * torch.arange(reduction.order))
    scale[reduction.real_modes] = scale[reduction.real_modes].abs().to(scale.dtype)
    error = reduction.error
    scaled = reduction.rescaled(scale)
    assert scaled.error == error
    torch.testing.assert_close(scaled.system.B * scale[:, None], reduction.system.B)
    torch.testing.assert_close(scaled.system.C / scale, reduction.system.C)
    torch.testing.assert_close(scaled.left @ scaled.right, reduction.left @ reduction.right)
    torch.testing.assert_close(scaled.system.impulse_response(9), reduction.system.impulse_response(9))
    torch.testing.assert_close(scaled.right, reduction.right * scale)


def test_rescaling_errors() -> None:
    system = DiagonalSystem(
        torch.tensor([0.5, -0.4]), torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0, 2.0]])
    )
    reduction = balance(system).truncate(2)
    assert reduction.real_modes.all()
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(3,\)"):
        reduction.rescaled(torch.ones(3))
    with pytest.raises(ValueError, match="finite and nonzero"):
        reduction.rescaled(torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="finite and nonzero"):
        reduction.rescaled(torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match="must be real"):
        reduction.rescaled(torch.tensor([1.0, 1.0j]))


def test_order_counts_complex_states() -> None:
    """Two conjugate pairs and three real states, all of use: order 4 leaves out what does not fit."""
    A = torch.tensor([0.9 * np.exp(0.5j), 0.8 * np.exp(1.5j), 0.7, -0.6, 0.3])
    generator = torch.Generator().manual_seed(1)
    B, C = torch.randn(5, 3, generator=generator), torch.randn(3, 5, generator=generator)
    balancing = balance(DiagonalSystem(A, B, C))
    assert balancing.rank == 7
    counts = {keep: balancing.truncate(keep=keep).order for keep in range(1, 8)}
    assert counts[7] == 5
    for order in range(1, 6):
        reduction = balancing.truncate(order)
        assert reduction.kept == max(keep for keep, count in counts.items() if count <= order)
        assert reduction.order == counts[reduction.kept]


def test_rank_limits_and_says_so(random_system) -> None:
    system = random_system(6, 2, 2)
    B = system.B.clone()
    B[1:4] = 0.0
    poor = DiagonalSystem(system.A, B, system.C)
    with pytest.warns(
        ReductionWarning, match="order 5 asked for, kept 6 .* in 3 complex states: the numerical rank"
    ):
        reduction = balanced_truncation(poor, 5)
    assert (reduction.order, reduction.kept, reduction.limited_by) == (3, 6, "rank")
    assert reduction.error < 1e-10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert balance(poor).truncate(5).limited_by == "rank"
        assert balanced_truncation(poor, keep=6).limited_by is None


@pytest.mark.parametrize("realization", REALIZATIONS)
def test_silent_systems_keep_one_silent_state(random_system, realization: str) -> None:
    system = random_system(4, 2, 2)
    B, C, none = system.B.clone(), system.C.clone(), torch.zeros_like(system.B)
    B[2:], C[:, :2] = 0.0, 0.0
    crossed = (torch.tensor([0.5, 0.5]), torch.ones(2, 1), torch.tensor([[1.0, -1.0]]))
    for silent in (
        DiagonalSystem(system.A, none, system.C, system.D),
        DiagonalSystem(system.A, system.B, none.mT, system.D),
        DiagonalSystem(system.A, B, C, system.D),
        DiagonalSystem(*crossed),
    ):
        with pytest.warns(ReductionWarning, match="nothing passes from input to output"):
            reduction = balanced_truncation(silent, 1, realization=realization)
        assert (reduction.order, reduction.kept, reduction.limited_by) == (1, 0, "rank")
        impulse = reduction.system.impulse_response(5)
        assert not impulse[1:].any()
        torch.testing.assert_close(impulse[0], silent.direct_matrix(), rtol=0, atol=0)
        assert reduction.error == pytest.approx(0.0, abs=1e-14)
        inputs = silent.B if realization == "complex" else torch.cat([silent.B.real, silent.B.imag])
        torch.testing.assert_close(reduction.left @ inputs.to(torch.complex128), reduction.system.B)


def test_nearly_defective_truncations_step_down(draw) -> None:
    """The family is made so that its truncation to two real states approaches a double eigenvalue."""
    stepped = 0
    for seed in range(40):
        system = draw("merging", seed)
        balancing = balance(system)
        matrix = balancing.dynamics(2)
        sensitivity = eigenmodes(matrix, *balancing.bases(2)).sensitivity
        reduction = balancing.truncate(keep=2)
        if sensitivity > modes.MAX_SENSITIVITY:
            stepped += 1
            assert (reduction.kept, reduction.limited_by) == (1, "conditioning")
            assert "nearly defective" in reduction.note
        else:
            assert (reduction.kept, reduction.limited_by) == (2, None)
        assert reduction.error <= reduction.error_bound * (1 + 1e-9)
        strength = reduction.system.B.norm(dim=1) * reduction.system.C.norm(dim=0)
        hankel = strength / (1.0 - reduction.system.A.abs() ** 2)
        assert float(hankel.max()) <= 2.0 * modes.MAX_SENSITIVITY * float(reduction.hankel_singular_values[0])
    assert stepped >= 5


def test_sensitive_systems_are_held_to_less() -> None:
    """Modes that cancel to one part in 1e6 leave fewer digits to spend on eigenvectors."""
    gap = 1e-6
    A = torch.tensor([0.5, 0.5 - gap], dtype=torch.float64)
    system = DiagonalSystem(A, torch.ones(2, 1), torch.tensor([[1.0, -1.0]], dtype=torch.float64) / gap)
    assert balance(system).max_sensitivity < modes.MAX_SENSITIVITY
    assert balance(system).truncate(keep=2).limited_by == "conditioning"
    assert balance(DiagonalSystem(A[:1], torch.ones(1, 1), torch.ones(1, 1))).max_sensitivity == 1e4


def test_unstable_truncations_step_down() -> None:
    """The pair at 0.9j leads, 0.5 follows; a factor that is wrong there pushes 0.5 out of the circle."""
    balancing = balance(DiagonalSystem(torch.tensor([0.5, 0.9j]), torch.eye(2), torch.eye(2)))
    balancing.right[:, 2] *= 2.5
    reduction = balancing.truncate(keep=3)
    assert (reduction.kept, reduction.limited_by) == (2, "stability")
    assert "the next larger truncation is unstable" in reduction.note
    assert bool((reduction.system.A.abs() < 1).all())


def test_no_stable_size_keeps_nothing() -> None:
    system = DiagonalSystem(torch.tensor([0.9]), torch.ones(1, 1), torch.ones(1, 1))
    balancing = balance(system)
    balancing.right.mul_(2.0)
    reduction = balancing.truncate(1)
    assert (reduction.kept, reduction.order, reduction.limited_by) == (0, 1, "stability")
    assert not reduction.system.impulse_response(3).any()
    assert reduction.error_bound >= reduction.error


@pytest.mark.parametrize("realization", REALIZATIONS)
def test_slow_modes_keep_their_decay_rate(realization: str) -> None:
    """An eigenvalue of a rounded matrix would know 1 - |l| = 1e-9 to 1e-7; the result must know it better."""
    log_A = torch.tensor([-1e-9 + 2.5j, -0.3 + 1j, -0.5 - 2j, -0.2 + 4.5j], dtype=torch.complex128)
    generator = torch.Generator().manual_seed(0)
    B = torch.randn(4, 2, generator=generator, dtype=torch.complex128)
    system = DiagonalSystem(None, B, B.mH.clone(), log_A=log_A)
    reduced = balance(system, realization).truncate(4).system
    slow = int(reduced.log_A.real.argmax())
    assert float(reduced.log_A[slow].real) == pytest.approx(-1e-9, rel=1e-11)


@pytest.mark.parametrize("realization", REALIZATIONS)
def test_own_factors_given_from_outside(random_system, realization: str) -> None:
    system = random_system(7, 3, 2)
    R, L = controllability_factor(system, realization), observability_factor(system, realization)
    given = balance(system, realization, controllability=R, observability=L).truncate(4)
    own = balance(system, realization).truncate(4)
    torch.testing.assert_close(given.system.impulse_response(9), own.system.impulse_response(9))
    assert given.error_bound is None
    assert given.error == pytest.approx(own.error)


def test_weighted_balancing_bounds_the_weighted_error(random_system) -> None:
    system = random_system(9, 3, 2, 6)
    generator = torch.Generator().manual_seed(2)
    inward = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    outward = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    balancing = balance(
        system,
        controllability=controllability_factor(system, input_factor=inward),
        observability=observability_factor(system, output_factor=outward),
    )
    for keep in (3, 8, 13):
        reduction = balancing.truncate(keep=keep)
        difference = system - reduction.system
        weighted = DiagonalSystem(
            None,
            difference.B @ inward.to(torch.complex128),
            outward.mT.to(torch.complex128) @ difference.C,
            log_A=difference.log_A,
        )
        assert weighted.hinf_norm() <= error_bound(balancing.hankel_singular_values, keep)
        assert reduction.error == pytest.approx(_gain(difference), rel=1e-3)


def test_data_factors_of_any_width(random_system) -> None:
    system = random_system(5, 2, 2)
    samples = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    balancing = balance(system, controllability=samples)
    assert balancing.hankel_singular_values.shape == (10,)
    assert balancing.rank == 3
    assert balancing.truncate(keep=3).kept == 3


def test_the_same_numbers_every_time(random_system) -> None:
    system = random_system(30, 4, 4)
    first, second = (balance(system).truncate(12) for _ in range(2))
    for name in ("right", "left", "hankel_singular_values"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert first.error == second.error


def test_threads_are_left_alone(random_system) -> None:
    before = torch.get_num_threads()
    assert isinstance(balanced_truncation(random_system(8, 2, 2), 3), Reduction)
    assert torch.get_num_threads() == before


def test_errors(random_system) -> None:
    system = random_system(4, 2, 2)
    balancing = balance(system)
    for arguments, error, message in [
        ({}, TypeError, "exactly one of order"),
        ({"order": 2, "keep": 2}, TypeError, "exactly one of order"),
        ({"order": 0}, ValueError, r"order must be in 1..4 for a system of 4 states, got 0"),
        ({"order": 5}, ValueError, r"order must be in 1..4"),
        ({"keep": 9}, ValueError, r"keep must be in 1..8"),
        ({"order": 2.0}, TypeError, "order must be an int, got 2.0"),
        ({"keep": True}, TypeError, "keep must be an int, got True"),
    ]:
        with pytest.raises(error, match=message):
            balancing.truncate(**arguments)
    with pytest.raises(ValueError, match="'real' or 'complex', got 'modal'"):
        balanced_truncation(system, 2, realization="modal")
    with pytest.raises(ValueError, match=r"controllability factor must have shape \(8, m\), got \(4, 4\)"):
        balance(system, controllability=torch.eye(4))
    with pytest.raises(ValueError, match="observability factor must be real in real form"):
        balance(system, observability=torch.eye(8) * 1j)
    with pytest.raises(ValueError, match="controllability factor holds values that are not finite"):
        balance(system, controllability=torch.full((8, 1), math.inf))
