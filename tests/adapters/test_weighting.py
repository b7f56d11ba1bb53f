"""Gramians from signals, against the definitions and against the system's own."""

import numpy as np
import pytest
import torch
from torch import Tensor

from compressm.adapters import Weighting
from compressm.adapters.weighting import adjoint_factor, state_factor
from compressm.lti import DiagonalSystem, balance


def system(states: int = 4, inputs: int = 3, outputs: int = 2) -> DiagonalSystem:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.complex128, generator=generator)

    log_A = torch.complex(
        -0.05 - torch.rand(states, dtype=torch.float64, generator=generator),
        3 * torch.rand(states, dtype=torch.float64, generator=generator),
    )
    return DiagonalSystem(None, normal(states, inputs), normal(outputs, states), log_A=log_A)


def signal(channels: int, *, batch: int = 3, length: int = 7, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, channels, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_the_state_factor_is_the_second_moment_of_the_states(realization: str) -> None:
    it = system()
    u = [signal(3), signal(3, batch=1, length=4, seed=1)]
    expected, count = 0, 0
    A, B = it.A.numpy(), it.B.numpy()
    for sequences in u:
        for sequence in sequences.numpy():
            x = np.zeros(4, dtype=complex)
            for u_k in sequence:
                x = A * x + B @ u_k
                z = np.concatenate((x.real, x.imag)) if realization == "real" else x
                expected, count = expected + np.outer(z, z.conj()), count + 1
    R = state_factor(it, u, realization)  # type: ignore[arg-type]
    np.testing.assert_allclose((R @ R.mH).numpy(), expected / count, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_the_adjoint_factor_is_the_second_moment_of_the_losss_gradients(realization: str) -> None:
    it, g = system(), signal(2)
    A, C = it.A.numpy(), it.C.numpy()
    expected = 0
    for sequence in g.numpy():
        w = np.zeros(4, dtype=complex)
        for g_k in sequence[::-1]:
            w = A.conj() * w + C.conj().T @ g_k
            z = np.concatenate((w.real, w.imag)) if realization == "real" else w
            expected = expected + np.outer(z, z.conj())
    L = adjoint_factor(it, [g], realization)  # type: ignore[arg-type]
    np.testing.assert_allclose((L @ L.mH).numpy(), expected / 21, rtol=1e-12, atol=1e-12)


def test_the_adjoint_state_is_the_gradient_by_the_state() -> None:
    """The loss sum_k g_k y_k differentiated by (Re x_0, Im x_0), the state before the first step."""
    it, g = system(), signal(2, batch=1)
    x0 = torch.zeros(4, dtype=torch.complex128, requires_grad=True)
    x, loss = x0, 0
    for g_k in g[0]:
        x = it.A * x
        loss = loss + (g_k * (it.C @ x).real).sum()
    (gradient,) = torch.autograd.grad(loss, x0)
    w = torch.zeros(4, dtype=torch.complex128)
    for g_k in g[0].flip(0):
        w = it.A.conj() * w + it.C.mH @ g_k.to(w.dtype)
    torch.testing.assert_close(gradient, it.A.conj() * w)


def test_white_noise_gives_the_systems_own_balancing() -> None:
    it = system()
    own = balance(it).hankel_singular_values
    weighted = Weighting("states", [signal(3, batch=64, length=500)]).balance(it, "real")
    torch.testing.assert_close(weighted.hankel_singular_values, own, rtol=0.05, atol=0.01 * float(own[0]))
    covariance = Weighting("covariance", [signal(3, batch=64, length=500)]).balance(it, "real")
    torch.testing.assert_close(covariance.hankel_singular_values, own, rtol=0.05, atol=0.01 * float(own[0]))


def test_a_state_that_the_data_never_drives_goes_first() -> None:
    it = system(states=3, inputs=2)
    B = it.B.clone()
    B[:, 1] = 0
    B[1] = torch.tensor([0.0, 100.0])  # only the second input drives this state, and strongly
    it = DiagonalSystem(None, B, it.C, log_A=it.log_A)
    u = signal(2)
    u[..., 1] = 0
    kept = Weighting("states", [u]).balance(it, "real").truncate(2).system.A
    for value in (it.A[0], it.A[2]):
        assert torch.min(torch.abs(kept - value)) < 1e-6
    blind = balance(it).truncate(1).system.A
    assert torch.abs(blind[0] - it.A[1]) < 0.05 * torch.abs(it.A[1])


@pytest.mark.parametrize("kind", ["states", "gradients", "covariance"])
def test_what_was_not_recorded_or_is_not_a_number_is_said(kind: str) -> None:
    it = system()
    with pytest.raises(ValueError, match=f"weighting '{kind}' needs recorded inputs"):
        Weighting(kind).balance(it, "real")  # type: ignore[arg-type]
    broken = signal(3)
    broken[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="recorded inputs hold values that are not finite"):
        Weighting(kind, [broken], [signal(2)]).balance(it, "real")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose one of none, states, gradients, covariance"):
        Weighting("all")  # type: ignore[arg-type]


def test_of_many_steps_every_few_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    it, u = system(), [signal(3, batch=4, length=50)]
    whole = state_factor(it, u, "complex")
    monkeypatch.setattr("compressm.adapters.weighting.MAX_ROWS", 100)
    part = state_factor(it, u, "complex")
    difference = torch.linalg.matrix_norm(part @ part.mH - whole @ whole.mH)
    assert 0 < difference < 0.3 * torch.linalg.matrix_norm(whole @ whole.mH)


def test_a_channel_is_a_weighting_of_its_own() -> None:
    u = signal(3)
    assert torch.equal(Weighting("states", [u]).channel(1).inputs[0], u[..., 1:2])
