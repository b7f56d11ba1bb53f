"""Values and gradients of the closed form, against other definitions of the same numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compressm.lti import DiagonalSystem
from compressm.rivals import differentiable_hankel_values, naive_hankel_values
from compressm.rivals.numerical_factor import numerical_factor

FORMS = pytest.mark.parametrize("form", ["real", "complex"])
Triple = tuple[Tensor, Tensor, Tensor]


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.complex128)


def random_system(
    seed: int, states: int = 4, inputs: int = 2, outputs: int = 3, radius: float = 0.9
) -> Triple:
    generator = torch.Generator().manual_seed(seed)
    modulus = radius * torch.rand(states, generator=generator, dtype=torch.float64).sqrt()
    angle = 6.28 * torch.rand(states, generator=generator, dtype=torch.float64)
    return (
        torch.complex(modulus.log(), angle),
        normal(generator, states, inputs),
        normal(generator, outputs, states),
    )


def twice(system: Triple) -> Triple:
    """Two copies side by side: every value is there twice."""
    log_A, B, C = system
    return torch.cat((log_A, log_A)), torch.block_diag(B, B), torch.block_diag(C, C)


def one_modulus() -> Triple:
    """Uncoupled modes that differ in their angle alone: all values of the complex form are equal."""
    log_A = torch.complex(torch.full((3,), -0.3, dtype=torch.float64), torch.tensor([0.4, 1.9, 4.0]).double())
    unit = torch.eye(3, dtype=torch.complex128)
    return log_A, unit, unit.clone()


def gradients(value: Callable[[Any], Tensor], system: Triple) -> list[Tensor]:
    leaves = tuple(tensor.clone().requires_grad_() for tensor in system)
    return list(torch.autograd.grad(value(leaves), leaves))


def finite_differences(value: Callable[[Triple], float], system: Triple, h: float = 2e-4) -> list[Tensor]:
    """Fourth order, over the real and the imaginary part of every entry."""
    found = [torch.zeros_like(tensor) for tensor in system]
    for which, tensor in enumerate(system):
        for index in np.ndindex(*tensor.shape):
            for unit in (1.0, 1.0j):

                def moved(steps: int) -> float:
                    changed = [other.clone() for other in system]
                    changed[which][index] += steps * h * unit  # noqa: B023 - called at once
                    return value((changed[0], changed[1], changed[2]))

                slope = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h)
                found[which][index] += slope * unit
    return found


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        scale = float(other.abs().max())
        assert scale > 0
        assert float((one - other).abs().max()) < tolerance * scale


@FORMS
@pytest.mark.parametrize("seed", range(4))
def test_the_values_are_those_of_the_systems_theory(form: Any, seed: int) -> None:
    log_A, B, C = random_system(seed, states=8)
    expected = DiagonalSystem(None, B, C, log_A=log_A).hankel_singular_values(form)
    for values in (differentiable_hankel_values(log_A, B, C, form), naive_hankel_values(log_A, B, C, form)):
        assert values.shape == expected.shape
        torch.testing.assert_close(values[:6], expected[:6], rtol=1e-7, atol=0)
    # The root of eig(P Q) would have lost half of the digits.
    found = differentiable_hankel_values(log_A, B, C, form)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * float(expected[0]))


@FORMS
@pytest.mark.parametrize(
    "system",
    [
        random_system(0),
        random_system(1, inputs=1, outputs=1),
        twice(random_system(2, 3, 1, 1)),
        one_modulus(),
    ],
    ids=["mimo", "siso", "every value twice", "all values equal"],
)
def test_the_gradient_of_the_sum_is_that_of_finite_differences(form: Any, system: Triple) -> None:
    def value(changed: Triple) -> float:
        log_A, B, C = changed
        return float(DiagonalSystem(None, B, C, log_A=log_A).hankel_singular_values(form).sum())

    found = gradients(lambda leaves: differentiable_hankel_values(*leaves, form).sum(), system)
    assert_close(found, finite_differences(value, system), 1e-8)


@FORMS
def test_the_gradient_of_another_function_of_the_values(form: Any) -> None:
    system = random_system(5)

    def value(changed: Triple) -> float:
        log_A, B, C = changed
        return float(DiagonalSystem(None, B, C, log_A=log_A).hankel_singular_values(form).pow(1.5).sum())

    found = gradients(lambda leaves: differentiable_hankel_values(*leaves, form).pow(1.5).sum(), system)
    assert_close(found, finite_differences(value, system), 1e-8)


@FORMS
@pytest.mark.parametrize("seed", range(3))
def test_the_hankel_matrix_itself_gives_the_same(form: Any, seed: int) -> None:
    """By definition: singular values of the matrix of impulse responses ``h_{j+k}``, with autograd."""
    system = random_system(seed, states=3, inputs=2, outputs=2, radius=0.6)
    reach, count = 40, 6 if form == "real" else 3

    def brute_force(leaves: Triple) -> Tensor:
        log_A, B, C = leaves
        powers = torch.exp(log_A[:, None] * torch.arange(2 * reach - 1))
        response = torch.einsum("pn,nk,nh->kph", C, powers, B)
        response = response.real if form == "real" else response
        index = torch.arange(reach)[:, None] + torch.arange(reach)
        hankel = response[index].permute(0, 2, 1, 3).reshape(2 * reach, 2 * reach)
        return torch.linalg.svdvals(hankel)[:count].sum()

    def closed(leaves: Triple) -> Tensor:
        return differentiable_hankel_values(*leaves, form).sum()

    assert float(closed(system)) == pytest.approx(float(brute_force(system)), rel=1e-12)
    assert_close(gradients(closed, system), gradients(brute_force, system), 1e-9)


@FORMS
def test_the_naive_form_agrees_where_it_is_defined(form: Any) -> None:
    system = random_system(7, states=3, inputs=3)
    naive = gradients(lambda leaves: naive_hankel_values(*leaves, form).sum(), system)
    closed = gradients(lambda leaves: differentiable_hankel_values(*leaves, form).sum(), system)
    assert_close(closed, naive, 1e-6)


@FORMS
def test_many_states_that_hardly_matter_do_no_harm(form: Any) -> None:
    """Values far below rounding: the gradient along a direction is still the slope of the accurate sum."""
    log_A, B, C = random_system(3, states=24, inputs=1, outputs=1, radius=0.8)
    directions = random_system(4, states=24, inputs=1, outputs=1)

    def value(step: float) -> float:
        system = DiagonalSystem(
            None,
            B + step * directions[1],
            C + step * directions[2],
            log_A=log_A + step * directions[0].imag * 1j,
        )
        return float(system.hankel_singular_values(form).sum())

    h = 1e-4
    slope = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    found = gradients(lambda leaves: differentiable_hankel_values(*leaves, form).sum(), (log_A, B, C))
    along = (found[0].imag * directions[0].imag).sum()
    along += sum((g.conj() * d).real.sum() for g, d in zip(found[1:], directions[1:], strict=True))
    assert float(along) == pytest.approx(slope, rel=1e-7)


@FORMS
def test_states_that_nothing_reaches_have_no_gradient(form: Any) -> None:
    log_A, B, C = random_system(6)
    B[1] = 0.0
    assert int((differentiable_hankel_values(log_A, B, C, form) > 0).sum()) == (6 if form == "real" else 3)
    found = gradients(lambda leaves: differentiable_hankel_values(*leaves, form).sum(), (log_A, B, C))
    assert all(bool(torch.isfinite(torch.view_as_real(gradient)).all()) for gradient in found)
    silent = gradients(lambda leaves: differentiable_hankel_values(*leaves, form).sum(), (log_A, 0 * B, C))
    assert all(float(gradient.abs().max()) == 0.0 for gradient in silent)


def test_parameters_may_change_before_the_way_back() -> None:
    log_A, B, C = random_system(9)
    expected = gradients(lambda leaves: differentiable_hankel_values(*leaves).sum(), (log_A, B, C))
    leaves = [tensor.clone().requires_grad_() for tensor in (log_A, B, C)]
    total = differentiable_hankel_values(*leaves).sum()
    with torch.no_grad():
        for leaf in leaves:
            leaf.mul_(0.5)
    total.backward()  # type: ignore[no-untyped-call]
    assert_close([leaf.grad for leaf in leaves if leaf.grad is not None], expected, 1e-14)


@pytest.mark.parametrize("compute", [differentiable_hankel_values, naive_hankel_values])
def test_what_has_no_gramian_is_refused(compute: Callable[..., Tensor]) -> None:
    log_A, B, C = random_system(0)
    with pytest.raises(ValueError, match="unstable"):
        compute(log_A + 3.0, B, C)
    with pytest.raises(ValueError, match="not finite"):
        compute(log_A, B * float("nan"), C)
    with pytest.raises(ValueError, match="'both'"):
        compute(log_A, B, C, "both")


class TestNumericalFactor:
    """Pivoted Cholesky."""

    @pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
    def test_it_stops_at_the_rank_and_gives_the_matrix_back(self, kind: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        F = torch.randn(9, 4, generator=generator, dtype=kind)
        F *= 10.0 ** torch.arange(-4, 5)[:, None]  # badly scaled rows
        F[3] = 0.0
        factor = numerical_factor(F @ F.mH)
        assert factor.shape == (9, 4)
        assert factor.dtype == kind
        scale = torch.outer(F.abs().norm(dim=1), F.abs().norm(dim=1)).clamp(min=1e-300)
        assert float(((factor @ factor.mH - F @ F.mH).abs() / scale).max()) < 1e-13

    def test_nothing_has_no_columns(self) -> None:
        assert numerical_factor(torch.zeros(3, 3, dtype=torch.float64)).shape == (3, 0)
