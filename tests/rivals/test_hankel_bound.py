"""The bound itself: above the norm everywhere, equal to it with its gradient where it was made."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressm.lti import DiagonalSystem
from compressm.rivals import SystemTensors, differentiable_hankel_values
from compressm.rivals.hankel_bound import HankelBound

FORMS = pytest.mark.parametrize("form", ["real", "complex"])


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.complex128)


def random_system(
    seed: int, states: int, inputs: int = 2, outputs: int = 3, radius: float = 0.9
) -> SystemTensors:
    generator = torch.Generator().manual_seed(seed)
    modulus = radius * torch.rand(states, generator=generator, dtype=torch.float64).sqrt()
    angle = 6.28 * torch.rand(states, generator=generator, dtype=torch.float64)
    log_A = torch.complex(modulus.log(), angle)
    return SystemTensors(log_A, normal(generator, states, inputs), normal(generator, outputs, states))


def moved(system: SystemTensors, by: float, seed: int) -> SystemTensors:
    """A neighbour, as stable."""
    generator = torch.Generator().manual_seed(seed)
    log_A, B, C = system
    noise = torch.randn(2, len(log_A), generator=generator, dtype=torch.float64)
    log_A = torch.complex(log_A.real * (by * noise[0]).exp(), log_A.imag + by * noise[1])
    return SystemTensors(log_A, B + by * normal(generator, *B.shape), C + by * normal(generator, *C.shape))


def values(system: SystemTensors, form: Any) -> Tensor:
    return DiagonalSystem(None, system.B, system.C, log_A=system.log_A).hankel_singular_values(form)


def leaves(system: SystemTensors) -> SystemTensors:
    return SystemTensors(*(tensor.clone().requires_grad_() for tensor in system))


@FORMS
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    states=st.integers(1, 12),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    by=st.sampled_from([1e-4, 1e-2, 0.1, 1.0]),
)
def test_no_norm_is_above_its_bound(
    form: Any, seed: int, states: int, inputs: int, outputs: int, by: float
) -> None:
    anchor = random_system(seed, states, inputs, outputs)
    bound = HankelBound(anchor, form)
    other = moved(anchor, by, seed + 1)
    touched, sigma = bound(other), values(other, form)
    # The left-out values are the only ones it may miss.
    left_out = 1e-9 * float(sigma[0]) * len(sigma)
    assert float(touched.reached + touched.seen) >= float(sigma.sum()) * (1 - 1e-9) - left_out
    torch.testing.assert_close(touched.squares, sigma.square().sum(), rtol=1e-9, atol=0)


@FORMS
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    states=st.integers(1, 12),
    radius=st.sampled_from([0.5, 0.9, 0.9999]),
    spread=st.sampled_from([0.0, 3.0]),
)
def test_where_it_was_made_it_has_the_norm_and_its_gradient(
    form: Any, seed: int, states: int, radius: float, spread: float
) -> None:
    log_A, B, C = random_system(seed, states, radius=radius)
    # Badly scaled states change no value.
    scale = 10.0 ** (spread * torch.rand(states, generator=torch.Generator().manual_seed(seed)).double())
    here = leaves(SystemTensors(log_A, B * scale[:, None], C / scale))
    bound = HankelBound(here, form)
    touched = bound(here)
    norm = differentiable_hankel_values(*here, form).sum()
    assert bound.norm == pytest.approx(norm.item(), rel=1e-12)
    assert touched.reached.item() == pytest.approx(norm.item() / 2, rel=1e-9)
    assert touched.seen.item() == pytest.approx(norm.item() / 2, rel=1e-9)
    assert not bound.is_far(touched)
    found = torch.autograd.grad(touched.reached + touched.seen, here)
    for one, other in zip(found, torch.autograd.grad(norm, here), strict=True):
        assert float((one - other).norm()) <= 1e-8 * float(other.norm()) + 1e-12


@FORMS
def test_it_leaves_the_norm_with_the_square_of_the_move(form: Any) -> None:
    anchor = random_system(0, 5)
    bound = HankelBound(anchor, form)
    gaps = []
    for by in (1e-2, 1e-3):
        other = moved(anchor, by, 1)
        touched = bound(other)
        gaps.append(float(touched.reached + touched.seen) - float(values(other, form).sum()))
    assert gaps[0] / gaps[1] == pytest.approx(100.0, rel=0.2)


@FORMS
@pytest.mark.parametrize("part", ["reached", "seen", "squares"])
def test_gradients_are_those_of_finite_differences(form: Any, part: str) -> None:
    anchor = random_system(3, 4)
    bound, here, direction = HankelBound(anchor, form), moved(anchor, 0.1, 1), moved(anchor, 1.0, 2)
    direction = SystemTensors(*(one - other for one, other in zip(direction, anchor, strict=True)))

    def value(step: float) -> float:
        system = (one + step * other for one, other in zip(here, direction, strict=True))
        return float(getattr(bound(SystemTensors(*system)), part))

    h = 1e-4
    slope = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    at = leaves(here)
    found = torch.autograd.grad(getattr(bound(at), part), at)
    along = sum((g.conj() * d).real.sum() for g, d in zip(found, direction, strict=True))
    assert float(along) == pytest.approx(slope, rel=1e-8)


def test_what_nothing_reaches_bounds_nothing() -> None:
    log_A, B, C = random_system(4, 3)
    silent = leaves(SystemTensors(log_A, 0.0 * B, C))
    touched = HankelBound(silent, "real")(silent)
    assert [part.item() for part in touched] == [0.0, 0.0, 0.0]
    found = torch.autograd.grad(touched.reached + touched.seen + touched.squares, silent)
    assert all(float(gradient.abs().max()) == 0.0 for gradient in found)
