"""Mamba-2 against a plain float64 loop, in all its ways of running, and against Transformers."""

import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from compressm.layers import Mamba2
from compressm.layers.norms import GatedRMSNorm

SHAPES: list[dict[str, Any]] = [
    {"input_dim": 6, "state_dim": 3, "head_dim": 4},
    {"input_dim": 4, "state_dim": 5, "head_dim": 2, "num_groups": 3, "expand": 3, "conv_kernel": 2,
     "bias": True, "dt_limit": (0.2, 0.6)},
    {"input_dim": 8, "state_dim": 1, "expand": 1, "conv_kernel": 1, "conv_bias": False},
]  # fmt: skip
NAMES = ["stock", "groups-biased-limited", "one-state-no-window"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def run(layer: Mamba2, u: Tensor) -> tuple[Tensor, Tensor]:
    """The definition head by head and step by step in float64; outputs and final states (batch, M, N, P)."""
    p = {name: value.double() for name, value in layer.named_parameters()}
    M, d, G = p["A_log"].shape[0], p["norm.weight"].shape[0], layer.num_groups
    P, N = d // M, (p["conv1d.weight"].shape[0] - d) // (2 * G)
    K = p["conv1d.weight"].shape[2]
    low, high = layer.dt_limit
    inner = u.double() @ p["in_proj.weight"].T + p.get("in_proj.bias", 0)
    z, mixed, dt = inner[..., :d], inner[..., d:-M], inner[..., -M:]
    S = [torch.zeros(u.shape[0], N, P, dtype=torch.float64) for _ in range(M)]
    outputs = []
    for t in range(u.shape[1]):
        filtered = p.get("conv1d.bias", torch.zeros(mixed.shape[2], dtype=torch.float64))
        for j in range(min(K, t + 1)):
            filtered = filtered + p["conv1d.weight"][:, 0, K - 1 - j] * mixed[:, t - j]
        v = silu(filtered)
        heads = []
        for m in range(M):
            x, group = v[:, m * P : (m + 1) * P], m // (M // G)
            B = v[:, d + group * N : d + (group + 1) * N]
            C = v[:, d + (G + group) * N : d + (G + group + 1) * N]
            delta = torch.log1p(torch.exp(dt[:, t, m] + p["dt_bias"][m])).clamp(low, high)[:, None, None]
            S[m] = torch.exp(-delta * torch.exp(p["A_log"][m])) * S[m] + delta * B[:, :, None] * x[:, None]
            heads.append((C[:, None] @ S[m])[:, 0] + p["D"][m] * x)
        y = torch.cat(heads, 1) * silu(z[:, t])
        parts = [part / torch.sqrt((part**2).mean(1, keepdim=True) + 1e-5) for part in y.chunk(G, 1)]
        y = torch.cat(parts, 1) * p["norm.weight"]
        outputs.append(y @ p["out_proj.weight"].T + p.get("out_proj.bias", 0))
    return torch.stack(outputs, 1), torch.stack(S, 1)


def lively(shape: dict[str, Any]) -> Mamba2:
    """A layer whose decays are neither one nor zero over a test's sequences."""
    torch.manual_seed(0)
    layer = Mamba2(**shape, dt_min=0.05, dt_max=0.5)
    with torch.no_grad():
        layer.A_log.sub_(1.5)
        layer.D.copy_(torch.randn_like(layer.D))
        layer.norm.weight.add_(0.3 * torch.randn_like(layer.norm.weight))
    return layer


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_outputs_states_and_gradients_equal_the_definition(shape: dict[str, Any]) -> None:
    layer = lively(shape).double()
    u = torch.randn(2, 19, layer.input_dim, dtype=torch.float64, requires_grad=True)
    expected, S = run(layer, u)
    y, state = layer(u)
    memory = layer.split_state(state)[1]
    assert torch.allclose(y, expected, rtol=1e-8, atol=1e-10)
    assert torch.allclose(memory, S, rtol=1e-8, atol=1e-10)
    weight, weight_S = torch.randn_like(expected), torch.randn_like(S)
    names, parameters = zip(("u", u), *layer.named_parameters(), strict=True)
    wanted = torch.autograd.grad((expected * weight).sum() + (S * weight_S).sum(), parameters)
    got = torch.autograd.grad((y * weight).sum() + (memory * weight_S).sum(), parameters)
    for name, actual, exact in zip(names, got, wanted, strict=True):
        assert torch.allclose(actual, exact, rtol=1e-8, atol=1e-8 * exact.abs().max().item()), name


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_float32_and_steps_equal_the_definition(shape: dict[str, Any]) -> None:
    layer = lively(shape)
    u = torch.randn(3, 70, layer.input_dim)
    expected, S = run(layer, u)
    y, last = layer(u)
    assert torch.allclose(y.double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(layer.split_state(last)[1].double(), S, rtol=1e-5, atol=1e-5)
    state = None
    for k in range(u.shape[1]):
        y_k, state = layer.step(u[:, k], state)
        assert torch.allclose(y_k, y[:, k], rtol=1e-4, atol=1e-5)
    assert state is not None
    assert torch.allclose(state, last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cut", [1, 3, 20])
def test_a_sequence_may_be_cut_anywhere_and_run_on(cut: int) -> None:
    layer = lively(SHAPES[0]).double()
    u = torch.randn(2, 21, 6, dtype=torch.float64)
    whole, last = layer(u)
    first, state = layer(u[:, :cut])
    second, end = layer(u[:, cut:], state)
    assert torch.allclose(torch.cat((first, second), 1), whole, atol=1e-11)
    assert torch.allclose(end, last, atol=1e-11)
    assert layer(u, final_state=False)[1].numel() == 0


def test_sizes_follow_parameters_that_a_cut_replaces() -> None:
    """Two of four channels of B and C, the same in every group, make a layer of two states."""
    layer = lively({"input_dim": 4, "state_dim": 4, "head_dim": 4, "num_groups": 2})
    small = Mamba2(4, 2, head_dim=4, num_groups=2)
    d, kept = layer.inner_dim, torch.tensor([1, 3])
    rows = torch.cat([torch.arange(d)] + [d + 4 * block + kept for block in range(4)])
    heads = torch.arange(2 * d + 16, 2 * d + 16 + layer.num_heads)
    projection = torch.cat((torch.arange(d), d + rows, heads))
    changes = {
        "in_proj.weight": layer.in_proj.weight[projection],
        "conv1d.weight": layer.conv1d.weight[rows],
        "conv1d.bias": layer.conv1d.bias[rows],
    }
    small.load_state_dict(layer.state_dict() | changes)
    layer.in_proj.weight = torch.nn.Parameter(changes["in_proj.weight"].detach())
    layer.conv1d.weight = torch.nn.Parameter(changes["conv1d.weight"].detach())
    layer.conv1d.bias = torch.nn.Parameter(changes["conv1d.bias"].detach())
    u = torch.randn(2, 9, 4)
    assert layer.state_dim == 2
    assert layer.memory_shape == (2, 2, 4)
    assert torch.equal(layer(u)[0], small(u)[0])


def test_initial_values_and_default_heads() -> None:
    torch.manual_seed(0)
    layer = Mamba2(96, 8)
    assert (layer.inner_dim, layer.head_dim, layer.num_heads) == (192, 64, 3)
    assert Mamba2(20, 8).head_dim == 8
    many = Mamba2(200, 2, head_dim=1)
    assert -16 <= many.rates().min() < -14
    assert -3 < many.rates().max() <= -1
    steps = torch.log1p(torch.exp(many.dt_bias))
    assert 0.00099 < steps.min() < 0.002
    assert 0.05 < steps.max() < 0.101
    assert "num_heads=3" in repr(layer)


def test_autocast_keeps_the_recurrence_in_float32() -> None:
    layer = lively({"input_dim": 8, "state_dim": 4, "head_dim": 4})
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
    for change, message in (
        ({"head_dim": 5}, r"Mamba2: head_dim is 5; it must divide expand \* input_dim = 12"),
        ({"head_dim": 4, "num_groups": 2}, r"Mamba2: num_groups is 2; it must divide the 3 heads"),
        ({"dt_limit": (0.5, 0.1)}, r"Mamba2: dt_limit is \(0.5, 0.1\)"),
        ({"state_dim": 0}, r"Mamba2: state_dim is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Mamba2(**({"input_dim": 6, "state_dim": 3} | change))
    layer = Mamba2(6, 3)
    with pytest.raises(ValueError, match=r"Mamba2: inputs have shape \(2, 7, 4\)"):
        layer(torch.randn(2, 7, 4))
    with pytest.raises(ValueError, match=r"Mamba2: input has shape \(2, 4\)"):
        layer.step(torch.randn(2, 4))
    with pytest.raises(TypeError, match=r"Mamba2: inputs are torch.float64"):
        layer(torch.randn(2, 7, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"A state from before a cut does not fit"):
        layer(torch.randn(2, 7, 6), torch.zeros(2, 11))


def test_gated_norm_is_scale_free_in_each_group() -> None:
    norm = GatedRMSNorm(6, groups=2, eps=0.0)
    y, z = torch.randn(4, 6), torch.randn(4, 6)
    scaled = torch.cat((5 * y[:, :3], 0.1 * y[:, 3:]), 1)
    assert torch.allclose(norm(y, z), norm(scaled, z), atol=1e-5)
    assert torch.allclose((norm(y, z)[:, :3] ** 2).mean(1), torch.ones(4), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_state_dicts_and_outputs_agree_with_transformers(shape: dict[str, Any]) -> None:
    layer = lively(shape)
    config = transformers.Mamba2Config(
        hidden_size=layer.input_dim,
        state_size=layer.state_dim,
        num_heads=layer.num_heads,
        head_dim=layer.head_dim,
        n_groups=layer.num_groups,
        expand=layer.inner_dim // layer.input_dim,
        conv_kernel=layer.conv1d.kernel,
        use_bias=layer.in_proj.bias is not None,
        use_conv_bias=layer.conv1d.bias is not None,
        time_step_limit=shape.get("dt_limit", (0.0, math.inf)),
        chunk_size=8,
        num_hidden_layers=1,
    )
    mixer = Mamba2Mixer(config, layer_idx=0)
    mixer.load_state_dict(layer.state_dict())
    again = Mamba2(**shape)
    again.load_state_dict(mixer.state_dict())
    u = torch.randn(2, 33, layer.input_dim)
    y, expected = again(u)[0], mixer(u)
    assert torch.allclose(y, expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(y)
    got = torch.autograd.grad((y * weight).sum(), list(again.parameters()))
    theirs = dict(mixer.named_parameters())
    gradients = torch.autograd.grad((expected * weight).sum(), list(theirs.values()))
    wanted = dict(zip(theirs, gradients, strict=True))
    for (name, _), gradient in zip(again.named_parameters(), got, strict=True):
        scale = wanted[name].abs().max().item()
        assert torch.allclose(gradient, wanted[name], rtol=1e-3, atol=1e-4 * scale), name
