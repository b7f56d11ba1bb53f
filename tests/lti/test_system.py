from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compressm.lti import DiagonalSystem

A = torch.tensor([0.5 + 0.3j, -0.7j, 0.9 + 0j])
B = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]])
C = torch.tensor([[1.0 + 1j, 2.0, -1j]])


def _simulate(system: DiagonalSystem, inputs: np.ndarray) -> np.ndarray:
    """The defining recursion, sample by sample."""
    state = np.zeros(system.state_dim, dtype=complex)
    D = (
        np.zeros((system.output_dim, system.input_dim))
        if system.D is None
        else system.direct_matrix().numpy()
    )
    outputs = []
    for sample in inputs:
        state = system.A.numpy() * state + system.B.numpy() @ sample
        outputs.append((system.C.numpy() @ state).real + D @ sample)
    return np.array(outputs)


def test_keeps_float64_on_the_cpu_whatever_comes_in() -> None:
    system = DiagonalSystem(A.to(torch.complex64).requires_grad_(), B.half(), C, torch.ones(1, 2))
    assert (system.A.dtype, system.B.dtype, system.C.dtype) == (torch.complex128,) * 3
    assert system.D.dtype == torch.float64
    assert not system.A.requires_grad
    assert (system.state_dim, system.input_dim, system.output_dim) == (3, 2, 1)
    assert repr(system) == "DiagonalSystem(state_dim=3, input_dim=2, output_dim=1)"


def test_copies_its_arguments() -> None:
    inputs = B.double().clone()
    system = DiagonalSystem(A, inputs, C)
    inputs.zero_()
    assert system.B.abs().sum() > 0


@pytest.mark.parametrize("direct", [None, "full", "vector"])
def test_impulse_response_is_the_recursion(random_system, direct) -> None:
    system = random_system(5, 3, 3)
    D = {None: None, "full": system.D, "vector": torch.tensor([1.0, -2.0, 0.5])}[direct]
    system = DiagonalSystem(system.A, system.B, system.C, D)
    response = system.impulse_response(20).numpy()
    assert response.shape == (20, 3, 3)
    for channel in range(3):
        impulse = np.zeros((20, 3))
        impulse[0, channel] = 1.0
        np.testing.assert_allclose(response[:, :, channel], _simulate(system, impulse), atol=1e-13)


def test_impulse_response_in_chunks_agrees(random_system, monkeypatch) -> None:
    from compressm.lti import response

    system = random_system(5, 2, 3)
    whole = system.impulse_response(17)
    monkeypatch.setattr(response, "_CHUNK", 16)
    torch.testing.assert_close(system.impulse_response(17), whole, rtol=1e-14, atol=1e-14)


def test_frequency_response_is_the_transform_of_the_impulse_response(random_system) -> None:
    system = random_system(6, 2, 3, high=0.8)
    omega = torch.tensor([0.0, 0.4, 2.0, math.pi], dtype=torch.float64)
    h = system.impulse_response(400).numpy()
    transform = np.einsum("kph,fk->fph", h, np.exp(-1j * np.outer(omega.numpy(), np.arange(400))))
    np.testing.assert_allclose(system.frequency_response(omega).numpy(), transform, atol=1e-12)


def test_eigenvalue_zero() -> None:
    system = DiagonalSystem(torch.tensor([0.0, 0.5]), torch.ones(2, 1), torch.ones(1, 2))
    assert system.log_A[0].real == -math.inf
    np.testing.assert_allclose(system.impulse_response(3).flatten(), [2.0, 0.5, 0.25])
    again = DiagonalSystem(None, system.B, system.C, log_A=system.log_A)
    np.testing.assert_allclose(again.hankel_singular_values(), system.hankel_singular_values(), atol=1e-15)
    assert math.isfinite(system.hinf_norm())


def test_log_A_keeps_states_that_hardly_decay() -> None:
    log_A = torch.tensor([-1e-20 + 1j], dtype=torch.complex128)
    system = DiagonalSystem(None, torch.ones(1, 1), torch.ones(1, 1), log_A=log_A)
    assert abs(system.A[0]) == 1.0
    assert system.controllability_gramian()[0, 0].real == pytest.approx(5e19)


def test_difference_is_the_error_system(random_system) -> None:
    first, second = random_system(4, 2, 2, 1), random_system(3, 2, 2, 2)
    difference = first - second
    assert difference.state_dim == 7
    expected = first.impulse_response(30) - second.impulse_response(30)
    torch.testing.assert_close(difference.impulse_response(30), expected)
    without = DiagonalSystem(A, B, C) - DiagonalSystem(A, 2 * B, C)
    assert without.D is None


def test_difference_refuses_other_shapes(random_system) -> None:
    with pytest.raises(ValueError, match=r"\(P, H\) = \(2, 2\) and \(2, 3\)"):
        random_system(3, 2, 2) - random_system(3, 3, 2)
    with pytest.raises(TypeError):
        random_system(3, 2, 2) - 1.0


def test_a_name_for_each_mistake() -> None:
    vector = torch.ones(3)
    for arguments, log_A, error, message in [
        ((None, B, C), None, TypeError, "exactly one of A and log_A must be given, got neither"),
        ((A, B, C), A, TypeError, "exactly one of A and log_A must be given, got both"),
        (([0.5], B, C), None, TypeError, "A must be a torch.Tensor, got list"),
        ((A[:, None], B, C), None, ValueError, "A must have 1 dimension"),
        ((A, B[0], C), None, ValueError, "B must have 2 dimension"),
        ((A, B[:2], C), None, ValueError, r"A has 3 states, so B must be \(3, H\), got \(2, 2\)"),
        ((A, B, C[:, :2]), None, ValueError, r"A has 3 states, so C must be \(P, 3\), got \(1, 2\)"),
        ((A[:0], B[:0], C[:, :0]), None, ValueError, "at least one state, input and output, got N=0"),
        ((A, B, C, vector), None, ValueError, r"elementwise D needs as many outputs as inputs.*P=1, H=2"),
        ((A, B, C, torch.ones(2, 2)), None, ValueError, r"D must be \(1, 2\) or \(1,\), got \(2, 2\)"),
        ((A, B, C, torch.ones(1, 1, 1)), None, ValueError, r"D must be \(P, H\) or \(P,\)"),
        ((A, B, C, torch.ones(1, 2) * 1j), None, TypeError, "D must be real"),
        ((A, B, C, torch.full((1, 2), math.nan)), None, ValueError, r"D holds 2 .* D\[0, 0\] = nan"),
        ((A, B * math.inf, C), None, ValueError, r"B holds 6 value"),
        ((A, B, torch.tensor([[0.0, math.nan, 0.0]])), None, ValueError, r"the first is C\[0, 1\] = \(nan"),
        ((None, B, C), torch.tensor([0.1, -1.0, -1.0]), ValueError, r"unstable, 1 of 3 .* A\[0\] = 1.105"),
        ((torch.tensor([0.5, 1.0, 2.0]), B, C), None, ValueError, r"unstable, 2 of 3 .* A\[1\] = 1\+0j"),
        ((None, B, C), torch.tensor([math.inf, -1.0, -1.0]), ValueError, r"log_A holds 1 value"),
    ]:
        with pytest.raises(error, match=message):
            DiagonalSystem(*arguments, log_A=log_A)


def test_impulse_response_needs_a_length() -> None:
    with pytest.raises(ValueError, match="length must be positive, got 0"):
        DiagonalSystem(A, B, C).impulse_response(0)
