"""Mamba against a plain float64 loop, in all its ways of running, and against two other implementations."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from mambapy.mamba import MambaBlock, MambaConfig
from torch import Tensor
from transformers.models.mamba.modeling_mamba import MambaMixer

from compressm.layers import Mamba
from compressm.layers.conv import CausalConv1d

SHAPES: list[dict[str, Any]] = [
    {"input_dim": 5, "state_dim": 3},
    {"input_dim": 4, "state_dim": 7, "expand": 3, "conv_kernel": 2, "dt_rank": 3, "bias": True},
    {"input_dim": 6, "state_dim": 1, "expand": 1, "conv_kernel": 1, "conv_bias": False},
]
NAMES = ["stock", "wide-biased", "one-state-no-window"]


def run(layer: Mamba, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, one channel's convolution tap and one step of time after the other, in float64.

    Returns outputs, the final window, and the final states.
    """
    parameters = {name: value.double() for name, value in layer.named_parameters()}
    d, N = parameters["A_log"].shape
    K = parameters["conv1d.weight"].shape[2]
    rank = parameters["dt_proj.weight"].shape[1]
    A = -torch.exp(parameters["A_log"])
    inner = u.double() @ parameters["in_proj.weight"].T + parameters.get("in_proj.bias", 0)
    x, z = inner[..., :d], inner[..., d:]
    zero = torch.zeros(d, dtype=torch.float64)
    taps = parameters["conv1d.weight"][:, 0]
    h = torch.zeros(u.shape[0], d, N, dtype=torch.float64)
    outputs = []
    for t in range(u.shape[1]):
        filtered = parameters.get("conv1d.bias", zero)
        for j in range(K):
            if t - j >= 0:
                filtered = filtered + taps[:, K - 1 - j] * x[:, t - j]
        v = filtered / (1 + torch.exp(-filtered))
        chosen = v @ parameters["x_proj.weight"].T
        dt, B, C = chosen[:, :rank], chosen[:, rank : rank + N], chosen[:, rank + N :]
        delta = torch.log1p(torch.exp(dt @ parameters["dt_proj.weight"].T + parameters["dt_proj.bias"]))
        h = torch.exp(delta[:, :, None] * A) * h + torch.einsum("bd,bn,bd->bdn", delta, B, v)
        y = torch.einsum("bdn,bn->bd", h, C) + parameters["D"] * v
        gate = z[:, t] / (1 + torch.exp(-z[:, t]))
        outputs.append((y * gate) @ parameters["out_proj.weight"].T + parameters.get("out_proj.bias", 0))
    past = torch.cat((x.new_zeros(u.shape[0], K - 1, d), x), dim=1)
    return torch.stack(outputs, 1), past[:, u.shape[1] :].mT, h


def lively(shape: dict[str, Any]) -> Mamba:
    """A layer whose time steps are long enough for decays to matter over a test's sequences."""
    torch.manual_seed(0)
    layer = Mamba(**shape, dt_min=0.05, dt_max=1.0)
    with torch.no_grad():
        layer.A_log.add_(0.3 * torch.randn_like(layer.A_log))
        layer.D.copy_(torch.randn_like(layer.D))
    return layer


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_outputs_states_and_gradients_equal_the_definition(shape: dict[str, Any]) -> None:
    layer = lively(shape).double()
    u = torch.randn(2, 23, layer.input_dim, dtype=torch.float64, requires_grad=True)
    expected, window, h = run(layer, u)
    y, state = layer(u)
    assert torch.allclose(y, expected, rtol=1e-8, atol=1e-10)
    assert torch.allclose(layer.split_state(state)[0], window, rtol=1e-10, atol=1e-12)
    assert torch.allclose(layer.split_state(state)[1], h, rtol=1e-8, atol=1e-10)
    weight, weight_h = torch.randn_like(expected), torch.randn_like(h)
    names, parameters = zip(("u", u), *layer.named_parameters(), strict=True)
    wanted = torch.autograd.grad((expected * weight).sum() + (h * weight_h).sum(), parameters)
    got = torch.autograd.grad((y * weight).sum() + (layer.split_state(state)[1] * weight_h).sum(), parameters)
    for name, actual, exact in zip(names, got, wanted, strict=True):
        assert torch.allclose(actual, exact, rtol=1e-8, atol=1e-8 * exact.abs().max().item()), name


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_float32_kernels_and_steps_equal_the_definition(shape: dict[str, Any]) -> None:
    layer = lively(shape)
    u = torch.randn(3, 45, layer.input_dim)
    expected, _, h = run(layer, u)
    y, last = layer(u)
    assert torch.allclose(y.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(layer.split_state(last)[1].double(), h, rtol=1e-5, atol=1e-5)
    state = None
    for k in range(u.shape[1]):
        y_k, state = layer.step(u[:, k], state)
        assert torch.allclose(y_k, y[:, k], rtol=1e-5, atol=1e-5)
    assert state is not None
    assert torch.allclose(state, last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_sequence_may_be_cut_anywhere_and_run_on(cut: int) -> None:
    layer = lively(SHAPES[0]).double()
    u = torch.randn(2, 21, 5, dtype=torch.float64)
    whole, last = layer(u)
    first, state = layer(u[:, :cut])
    second, end = layer(u[:, cut:], state)
    assert torch.allclose(torch.cat((first, second), 1), whole, atol=1e-12)
    assert torch.allclose(end, last, atol=1e-12)
    stepped, _ = layer.step(u[:, cut], state)
    assert torch.allclose(stepped, whole[:, cut], atol=1e-12)
    assert layer(u, final_state=False)[1].numel() == 0


def test_it_is_causal() -> None:
    layer = lively(SHAPES[0])
    u = torch.randn(1, 12, 5)
    changed = u.clone()
    changed[:, 8] += 1
    before, after = layer(u)[0], layer(changed)[0]
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8], after[:, 8])


def test_sizes_follow_parameters_that_a_cut_replaces() -> None:
    """Keeping two of the states in ``A_log`` and ``x_proj`` alone makes a layer of two states."""
    layer = lively({"input_dim": 5, "state_dim": 4})
    rank, kept = layer.dt_rank, torch.tensor([0, 2])
    rows = torch.cat((torch.arange(rank), rank + kept, rank + 4 + kept))
    small = Mamba(5, 2)
    small.load_state_dict(
        layer.state_dict() | {"A_log": layer.A_log[:, kept], "x_proj.weight": layer.x_proj.weight[rows]}
    )
    layer.A_log = torch.nn.Parameter(layer.A_log[:, kept].detach())
    layer.x_proj.weight = torch.nn.Parameter(layer.x_proj.weight[rows].detach())
    u = torch.randn(2, 9, 5)
    assert layer.state_dim == 2
    assert layer.memory_shape == (10, 2)
    assert torch.equal(layer(u)[0], small(u)[0])
    assert torch.allclose(layer(u)[0][:, 0], layer(u[:, :1])[0][:, 0], atol=1e-6)


def test_initial_values_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    layer = Mamba(40, 6, dt_min=0.01, dt_max=0.2)
    assert layer.dt_rank == 3
    assert layer.inner_dim == 80
    assert torch.allclose(layer.rates(), -torch.arange(1.0, 7.0).expand(80, 6))
    assert torch.equal(layer.D, torch.ones(80))
    steps = F.softplus(layer.dt_proj.bias)
    assert 0.0099 < steps.min() < 0.02
    assert 0.1 < steps.max() < 0.201
    assert layer.dt_proj.weight.abs().max() <= 3**-0.5
    assert "state_dim=6" in repr(layer)


def test_autocast_keeps_the_recurrence_in_float32() -> None:
    layer = lively({"input_dim": 8, "state_dim": 4})
    u = torch.randn(2, 17, 8)
    exact, last = layer(u)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(u)
        y_k, state_k = layer.step(u[:, 0])
        layer.step(u[:, 1], state_k)
    assert state.dtype == state_k.dtype == torch.float32
    assert torch.allclose(y.float(), exact, atol=0.05 * exact.abs().max().item())
    assert torch.allclose(y_k.float(), exact[:, 0], atol=0.05 * exact.abs().max().item())
    assert torch.allclose(state, last, atol=0.05 * last.abs().max().item())


def test_wrong_uses_say_what_to_do() -> None:
    layer = Mamba(5, 3)
    with pytest.raises(ValueError, match=r"Mamba: state_dim is 0; it must be at least 1"):
        Mamba(5, 0)
    with pytest.raises(ValueError, match=r"Mamba: time steps from 0.1 to 0.01 must satisfy"):
        Mamba(5, 3, dt_min=0.1, dt_max=0.01)
    with pytest.raises(ValueError, match=r"Mamba: inputs have shape \(2, 7, 4\)"):
        layer(torch.randn(2, 7, 4))
    with pytest.raises(ValueError, match=r"Mamba: input has shape \(2, 4\)"):
        layer.step(torch.randn(2, 4))
    with pytest.raises(TypeError, match=r"inputs are torch.float64 and parameters torch.float32"):
        layer(torch.randn(2, 7, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"A state from before a cut does not fit"):
        layer(torch.randn(2, 7, 5), torch.zeros(2, 11))
    with pytest.raises(ValueError, match=r"the state holds 3 sequences, the inputs 2"):
        layer(torch.randn(2, 7, 5), torch.zeros(3, 60))
    with pytest.raises(ValueError, match=r"CausalConv1d: kernel is 0"):
        CausalConv1d(3, 0)


def transformers_mixer(layer: Mamba) -> Any:
    """Transformers' mixer of the same sizes, in plain PyTorch, with our parameters in it."""
    config = transformers.MambaConfig(
        hidden_size=layer.input_dim,
        state_size=layer.state_dim,
        expand=layer.inner_dim // layer.input_dim,
        conv_kernel=layer.conv1d.kernel,
        time_step_rank=layer.dt_rank,
        use_bias=layer.in_proj.bias is not None,
        use_conv_bias=layer.conv1d.bias is not None,
        num_hidden_layers=1,
        use_associative_scan=False,
        use_mambapy=False,
    )
    mixer = MambaMixer(config, layer_idx=0)
    mixer.load_state_dict(layer.state_dict())
    return mixer


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_state_dicts_and_outputs_agree_with_transformers(shape: dict[str, Any]) -> None:
    layer = lively(shape)
    mixer = transformers_mixer(layer)
    again = Mamba(**shape)
    again.load_state_dict(mixer.state_dict())
    u = torch.randn(2, 33, layer.input_dim)
    y, expected = again(u)[0], mixer(u)
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(y)
    got = torch.autograd.grad((y * weight).sum(), list(again.parameters()))
    theirs = dict(zip(dict(mixer.named_parameters()), torch.autograd.grad(
        (expected * weight).sum(), list(mixer.parameters())), strict=True))  # fmt: skip
    for (name, _), gradient in zip(again.named_parameters(), got, strict=True):
        scale = theirs[name].abs().max().item()
        assert torch.allclose(gradient, theirs[name], rtol=1e-4, atol=1e-5 * scale), name


def test_outputs_agree_with_mambapy() -> None:
    layer = lively({"input_dim": 6, "state_dim": 5})
    config = MambaConfig(d_model=6, n_layers=1, d_state=5, dt_rank=math.ceil(6 / 16))
    block = MambaBlock(config)
    block.load_state_dict(layer.state_dict())
    u = torch.randn(2, 32, 6)
    assert torch.allclose(layer(u)[0], block(u), rtol=1e-5, atol=1e-6)
