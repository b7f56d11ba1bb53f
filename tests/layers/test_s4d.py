"""S4D against a plain complex loop, channel by channel, and its inert modes."""

import pytest
import torch
from torch import Tensor

from compressm.layers import S4D

SETTINGS = [
    {"spectrum": "legs", "discretization": "zoh"},
    {"spectrum": "lin", "discretization": "bilinear"},
    {"spectrum": "inv", "discretization": "zoh"},
]


def complex_loop(layer: S4D, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The definition, one step at a time, in complex128; written from the paper's equations alone."""
    a = torch.complex(-torch.exp(layer.log_A_real.double()), layer.A_imag.double())
    dt = torch.exp(layer.log_dt.double())[:, None]
    if layer.discretization == "zoh":
        lam = torch.exp(a * dt)
        drive = (lam - 1) / a
    else:
        lam, drive = (1 + a * dt / 2) / (1 - a * dt / 2), dt / (1 - a * dt / 2)
    C = torch.complex(layer.C[0].double(), layer.C[1].double())
    u = u.double()
    x = torch.zeros(u.shape[0], *a.shape, dtype=torch.complex128)
    if state is not None:
        x = torch.complex(state[:, 0].double(), state[:, 1].double())
    outputs = []
    for k in range(u.shape[1]):
        x = lam * x + drive * u[:, k, :, None]
        outputs.append(2 * (C * x).sum(-1).real + layer.D.double() * u[:, k])
    return torch.stack(outputs, 1), torch.stack((x.real, x.imag), 1)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    ("batch", "length", "channels", "states"), [(3, 37, 4, 6), (1, 1, 1, 1), (2, 64, 3, 1)]
)
@pytest.mark.parametrize("with_state", [False, True])
def test_forward_and_step_equal_the_definition(
    settings: dict[str, str], batch: int, length: int, channels: int, states: int, with_state: bool
) -> None:
    torch.manual_seed(0)
    layer = S4D(channels, states, **settings)  # type: ignore[arg-type]
    u = torch.randn(batch, length, channels)
    state = torch.randn(batch, 2, channels, states) if with_state else None
    expected, expected_state = complex_loop(layer, u, state)
    scale = max(1.0, expected.abs().max().item())
    y, last = layer(u, state)
    assert y.shape == u.shape
    assert y.is_contiguous()
    assert torch.allclose(y.double(), expected, atol=1e-5 * scale)
    assert torch.allclose(last.double(), expected_state, atol=1e-5 * scale)
    running = state
    for k in range(length):
        y_k, running = layer.step(u[:, k], running)
        assert torch.allclose(y_k.double(), expected[:, k], atol=1e-5 * scale)
    assert torch.allclose(running.double(), expected_state, atol=1e-5 * scale)


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradients_equal_those_of_the_definition(settings: dict[str, str]) -> None:
    torch.manual_seed(1)
    layer = S4D(3, 5, dt_min=0.05, dt_max=0.3, **settings).double()  # type: ignore[arg-type]
    u = torch.randn(2, 21, 3, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight, last_weight = (
        torch.randn(2, 21, 3, dtype=torch.float64),
        torch.randn(2, 2, 3, 5, dtype=torch.float64),
    )
    wanted = {**dict(layer.named_parameters()), "u": u, "state": state}

    def gradients(outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        loss = (outputs[0] * weight).sum() + (outputs[1] * last_weight).sum()
        return torch.autograd.grad(loss, list(wanted.values()))

    for name, actual, expected in zip(
        wanted, gradients(layer(u, state)), gradients(complex_loop(layer, u, state)), strict=True
    ):
        assert torch.allclose(actual, expected, rtol=1e-8, atol=1e-10 * expected.abs().max().item()), name


def test_two_halves_with_the_state_carried_over_equal_one_pass() -> None:
    torch.manual_seed(2)
    layer = S4D(5, 8).double()
    u = torch.randn(2, 41, 5, dtype=torch.float64)
    y, last = layer(u)
    first, state = layer(u[:, :17])
    second, state = layer(u[:, 17:], state)
    assert torch.allclose(torch.cat((first, second), 1), y, atol=1e-12)
    assert torch.allclose(state, last, atol=1e-12)


def test_long_sequences_keep_single_precision() -> None:
    torch.manual_seed(3)
    layer = S4D(2, 32, dt_min=0.001, dt_max=0.001)
    u = torch.randn(1, 5000, 2)
    exact = S4D(2, 32).double()
    exact.load_state_dict(layer.state_dict())
    with torch.no_grad():
        difference = layer(u)[0] - exact(u.double())[0]
        assert difference.abs().max() < 2e-5 * exact(u.double())[0].abs().max()


def test_memory_grows_with_the_root_of_the_length_per_state() -> None:
    """Nothing that autograd keeps is as large as the powers of all eigenvalues, H N L numbers."""
    layer = S4D(4, 16)
    u = torch.randn(1, 4096, 4)
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(u)[0].sum().backward()
    assert max(kept) <= 2 * 2 * 4096 * 4  # a padded signal as complex numbers; the powers would be 262,144
    assert max(kept) < 4 * 16 * 4096


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_inert_modes_do_nothing_and_learn_nothing(discretization: str) -> None:
    torch.manual_seed(4)
    layer = S4D(3, 6, discretization=discretization).double()  # type: ignore[arg-type]
    layer.channel_states.copy_(torch.tensor([2, 6, 1]))
    inert = torch.arange(6) >= layer.channel_states[:, None]
    u = torch.randn(2, 30, 3, dtype=torch.float64)
    state = torch.randn(2, 2, 3, 6, dtype=torch.float64)
    y, last = layer(u, state)
    (y.square().sum() + last.square().sum()).backward()
    for parameter in (layer.log_A_real, layer.A_imag, layer.C):
        assert (parameter.grad[..., inert] == 0).all()
        assert (parameter.grad[..., ~inert] != 0).all()
    assert (last[..., inert] == 0).all()
    with torch.no_grad():
        for parameter in (layer.log_A_real, layer.A_imag, layer.C):
            parameter[..., inert] = torch.randn_like(parameter[..., inert])
    again, _ = layer(u, state)
    assert torch.equal(again, y)
    running, outputs = state, []
    for k in range(30):
        y_k, running = layer.step(u[:, k], running)
        outputs.append(y_k)
    assert torch.allclose(torch.stack(outputs, 1), y, atol=1e-11)
    assert (running[..., inert] == 0).all()


def test_half_precision_stays_out_of_the_recurrence() -> None:
    torch.manual_seed(5)
    layer = S4D(3, 8)
    u = torch.randn(2, 50, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last = layer(u.bfloat16())
    assert y.dtype == last.dtype == torch.float32
    assert torch.allclose(y, layer(u.bfloat16().float())[0])


def test_initialisation() -> None:
    torch.manual_seed(6)
    layer = S4D(200, 100, spectrum="lin")
    assert torch.allclose(layer.log_A_real.exp(), torch.tensor(0.5))
    assert torch.allclose(layer.A_imag[7], torch.pi * torch.arange(100.0))
    assert layer.C.square().sum(0).mean().item() == pytest.approx(1.0, rel=0.02)
    assert layer.channel_states.tolist() == [100] * 200
    # Channels are independent parameters, not views of one row.
    with torch.no_grad():
        layer.A_imag[0, 0] = 5.0
    assert layer.A_imag[1, 0] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_dim": 0, "state_dim": 4}, "S4D: input_dim is 0"),
        ({"input_dim": 4, "state_dim": 4, "discretization": "euler"}, "'euler'; choose one of zoh, bilinear"),
        ({"input_dim": 4, "state_dim": 4, "spectrum": "fourier"}, "choose one of legs, lin, inv"),
        ({"input_dim": 4, "state_dim": 4, "dt_max": 1e-4}, "S4D: dt_min"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        S4D(**arguments)  # type: ignore[arg-type]


def test_bad_inputs_and_a_state_from_before_a_cut_are_refused() -> None:
    layer = S4D(4, 8)
    with pytest.raises(ValueError, match=r"\(2, 10, 3\); expected \(batch, L, 4\)"):
        layer(torch.zeros(2, 10, 3))
    with pytest.raises(ValueError, match=r"\(2, 0, 4\)"):
        layer(torch.zeros(2, 0, 4))
    with pytest.raises(TypeError, match=r"inputs are torch\.float64 and parameters torch\.float32"):
        layer(torch.zeros(2, 10, 4, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"inputs are torch\.bfloat16"):
        layer(torch.zeros(2, 10, 4, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"expected \(batch, 4\)"):
        layer.step(torch.zeros(2, 10, 4))
    with pytest.raises(ValueError, match="from before a cut"):
        layer(torch.zeros(2, 10, 4), torch.zeros(2, 2, 4, 16))
