"""The LRU against a plain complex loop, and its three ways of running against each other."""

import math

import pytest
import torch

from compressm.layers import LRU


def complex_loop(
    layer: LRU, u: torch.Tensor, state: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, one step at a time, in complex128; written from the paper's equations alone."""
    u = u.double()
    lam = torch.exp(torch.complex(-torch.exp(layer.nu.double()), layer.theta.double()))
    B = torch.exp(layer.gamma_log.double())[:, None] * torch.complex(layer.B[0].double(), layer.B[1].double())
    C = torch.complex(layer.C[0].double(), layer.C[1].double())
    x = torch.zeros(u.shape[0], layer.state_dim, dtype=torch.complex128)
    if state is not None:
        x = torch.complex(state[:, 0].double(), state[:, 1].double())
    outputs = []
    for k in range(u.shape[1]):
        x = x * lam + u[:, k].to(torch.complex128) @ B.T
        outputs.append((x @ C.T).real + layer.D.double() * u[:, k])
    return torch.stack(outputs, 1), torch.stack((x.real, x.imag), 1)


@pytest.mark.parametrize(
    ("batch", "length", "channels", "states"), [(3, 37, 4, 9), (1, 1, 1, 1), (2, 5, 6, 1)]
)
@pytest.mark.parametrize("with_state", [False, True])
def test_forward_and_step_equal_the_definition(
    batch: int, length: int, channels: int, states: int, with_state: bool
) -> None:
    torch.manual_seed(0)
    layer = LRU(channels, states)
    u = torch.randn(batch, length, channels)
    state = torch.randn(batch, 2, states) if with_state else None
    expected, expected_state = complex_loop(layer, u, state)
    y, last = layer(u, state)
    assert y.shape == u.shape
    assert torch.allclose(y.double(), expected, atol=1e-5)
    assert torch.allclose(last.double(), expected_state, atol=1e-5)
    running = state
    for k in range(length):
        y_k, running = layer.step(u[:, k], running)
        assert torch.allclose(y_k.double(), expected[:, k], atol=1e-5)
    assert torch.allclose(running.double(), expected_state, atol=1e-5)


def test_two_halves_with_the_state_carried_over_equal_one_pass() -> None:
    torch.manual_seed(1)
    layer = LRU(5, 16)
    u = torch.randn(2, 41, 5)
    y, last = layer(u)
    first, state = layer(u[:, :17])
    second, state = layer(u[:, 17:], state)
    assert torch.allclose(torch.cat((first, second), 1), y, atol=1e-5)
    assert torch.allclose(state, last, atol=1e-5)


def test_gradients_of_every_parameter_equal_those_of_the_definition() -> None:
    torch.manual_seed(2)
    layer = LRU(3, 7).double()
    u = torch.randn(2, 19, 3, dtype=torch.float64)
    weight = torch.randn(2, 19, 3, dtype=torch.float64)
    parameters = dict(layer.named_parameters())
    expected = torch.autograd.grad((complex_loop(layer, u)[0] * weight).sum(), list(parameters.values()))
    actual = torch.autograd.grad((layer(u)[0] * weight).sum(), list(parameters.values()))
    for name, a, e in zip(parameters, actual, expected, strict=True):
        assert torch.allclose(a, e, rtol=1e-9, atol=1e-10), name


def test_initialisation_follows_the_papers_distributions() -> None:
    torch.manual_seed(3)
    layer = LRU(16, 20_000, r_min=0.9, r_max=0.999, max_phase=6.28)
    magnitude = torch.exp(-torch.exp(layer.nu.double()))
    assert 0.9 - 1e-6 <= magnitude.min() < 0.91
    assert 0.998 < magnitude.max() <= 0.999 + 1e-6
    # Uniform on the ring: the squared radius is uniform.
    assert (magnitude**2).mean().item() == pytest.approx((0.81 + 0.999**2) / 2, abs=2e-3)
    assert layer.theta.min() >= 0
    assert layer.theta.mean().item() == pytest.approx(3.14, abs=0.05)
    assert torch.allclose(torch.exp(2 * layer.gamma_log.double()), 1 - magnitude**2, rtol=1e-4)
    assert layer.B[0].std().item() == pytest.approx(1 / math.sqrt(32), rel=0.02)
    assert layer.C[1].std().item() == pytest.approx(1 / math.sqrt(20_000), rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_dim": 0, "state_dim": 4}, "input_dim is 0"),
        ({"input_dim": 4, "state_dim": 0}, "state_dim is 0"),
        ({"input_dim": 4, "state_dim": 4, "r_max": 1.0}, r"ring \[0.9, 1.0\]"),
        ({"input_dim": 4, "state_dim": 4, "r_min": 0.99, "r_max": 0.9}, "r_min < r_max"),
    ],
)
def test_bad_sizes_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LRU(**arguments)


def test_bad_inputs_and_a_state_from_before_a_cut_are_refused() -> None:
    layer = LRU(4, 8)
    with pytest.raises(ValueError, match=r"\(2, 10, 3\); expected \(batch, L, 4\)"):
        layer(torch.zeros(2, 10, 3))
    with pytest.raises(ValueError, match=r"expected \(batch, 4\)"):
        layer.step(torch.zeros(2, 10, 4))
    with pytest.raises(ValueError, match="from before a cut"):
        layer(torch.zeros(2, 10, 4), torch.zeros(2, 2, 16))
    with pytest.raises(ValueError, match="from before a cut"):
        layer.step(torch.zeros(2, 4), torch.zeros(2, 2, 16))
