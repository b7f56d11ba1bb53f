"""Linear attention and delta-rule layers against plain float64 loops, in all their ways of running."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from compressm.layers import DeltaNet, GatedDeltaNet, GatedLinearAttention, RetNet

Layer = GatedLinearAttention | RetNet | DeltaNet | GatedDeltaNet


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def head(x: Tensor, m: int, heads: int) -> Tensor:
    """The share of head m in a stacked vector ``(batch, heads * channels)``."""
    return x.chunk(heads, dim=1)[m]


def normed(y: Tensor, weight: Tensor) -> Tensor:
    return weight * y / torch.sqrt((y**2).mean(1, keepdim=True) + 1e-5)


def run(layer: Layer, u: Tensor) -> tuple[Tensor, Tensor]:
    """The definitions, one head and one step after the other, in float64: outputs, final memories."""
    p = {name: value.double() for name, value in layer.named_parameters()}
    u = u.double()
    M = layer.num_heads
    K, V = p["q_proj.weight"].shape[0] // M, p["v_proj.weight"].shape[0] // M
    S = [torch.zeros(u.shape[0], K, V, dtype=torch.float64) for _ in range(M)]
    outputs = []
    for t in range(u.shape[1]):
        heads = []
        for m in range(M):
            q, k, v = (head(_operand(layer, p, name, u, t), m, M) for name in "qkv")
            if isinstance(layer, DeltaNet):
                q = q / torch.sqrt((q**2).sum(1, keepdim=True) + 1e-6)
                k = k / torch.sqrt((k**2).sum(1, keepdim=True) + 1e-6)
                beta = torch.sigmoid(u[:, t] @ p["b_proj.weight"][m])[:, None]
                beta = 2 * beta if layer.negative_eigenvalues else beta
                S[m] = _decay(layer, p, u[:, t], m) * S[m]
                known = torch.einsum("bkv,bk->bv", S[m], k)
                S[m] = S[m] + torch.einsum("bk,bv->bkv", k, beta * (v - known))
            else:
                S[m] = _decay(layer, p, u[:, t], m) * S[m] + torch.einsum("bk,bv->bkv", k, v)
            y = torch.einsum("bkv,bk->bv", S[m], q) / K**0.5
            y = normed(y, p["o_norm.weight" if isinstance(layer, DeltaNet) else "g_norm_swish_gate.weight"])
            if "g_proj.weight" in p:
                y = y * silu(head(u[:, t] @ p["g_proj.weight"].T, m, M))
            heads.append(y)
        outputs.append(torch.cat(heads, 1) @ p["o_proj.weight"].T)
    return torch.stack(outputs, 1), torch.stack(S, 1)


def _operand(layer: Layer, p: dict[str, Tensor], name: str, u: Tensor, t: int) -> Tensor:
    """Query, key or value of step t."""
    projection = p[f"{name}_proj.weight"]
    if not isinstance(layer, DeltaNet):
        return u[:, t] @ projection.T
    taps = p[f"{name}_conv1d.weight"][:, 0]
    width = taps.shape[1]
    return silu(sum(taps[:, width - 1 - j] * (u[:, t - j] @ projection.T) for j in range(min(width, t + 1))))


def _decay(layer: Layer, p: dict[str, Tensor], u_t: Tensor, m: int) -> Tensor:
    """Decay of head m, to multiply its state ``(batch, K, V)``."""
    if isinstance(layer, GatedLinearAttention):
        gates = u_t @ p["gk_proj.0.weight"].T @ p["gk_proj.1.weight"].T + p["gk_proj.1.bias"]
        return torch.sigmoid(head(gates, m, layer.num_heads))[:, :, None] ** (1 / layer.gate_normalizer)
    if isinstance(layer, RetNet):
        return torch.tensor(1 - 2.0 ** (-5 - m), dtype=torch.float64)
    if isinstance(layer, GatedDeltaNet):
        dt = torch.log1p(torch.exp(u_t @ p["a_proj.weight"][m] + p["dt_bias"][m]))
        return torch.exp(-dt * torch.exp(p["A_log"][m]))[:, None, None]
    return torch.tensor(1.0, dtype=torch.float64)


CASES: dict[str, Callable[[], Layer]] = {
    "gla": lambda: GatedLinearAttention(8, 3),
    "gla-strong": lambda: GatedLinearAttention(6, 5, num_heads=2, gate_rank=2, gate_normalizer=0.5),
    "retnet": lambda: RetNet(6, 4, num_heads=3, value_dim=5),
    "deltanet": lambda: DeltaNet(8, 3),
    "deltanet-reflecting": lambda: DeltaNet(6, 4, num_heads=2, conv_kernel=1, negative_eigenvalues=True),
    "gated-deltanet": lambda: GatedDeltaNet(6, 4, num_heads=3, value_dim=5, dt_min=0.05, dt_max=0.5),
}


def make(name: str) -> Layer:
    """A layer with no parameter at a default that would hide an error."""
    torch.manual_seed(0)
    layer = CASES[name]()
    with torch.no_grad():
        for key, value in layer.named_parameters():
            if "norm" in key:
                value.add_(0.3 * torch.randn_like(value))
        if isinstance(layer, GatedDeltaNet):
            layer.A_log.sub_(1.5)
    return layer


def memory(layer: Layer, state: Tensor) -> Tensor:
    return layer.split_state(state)[1] if isinstance(layer, DeltaNet) else state


@pytest.mark.parametrize("name", CASES)
def test_outputs_states_and_gradients_equal_the_definition(name: str) -> None:
    layer = make(name).double()
    u = torch.randn(2, 19, layer.input_dim, dtype=torch.float64, requires_grad=True)
    expected, S = run(layer, u)
    y, state = layer(u)
    assert torch.allclose(y, expected, rtol=1e-8, atol=1e-9)
    assert torch.allclose(memory(layer, state), S, rtol=1e-8, atol=1e-10)
    weight, weight_S = torch.randn_like(expected), torch.randn_like(S)
    names, parameters = zip(("u", u), *layer.named_parameters(), strict=True)
    wanted = torch.autograd.grad((expected * weight).sum() + (S * weight_S).sum(), parameters)
    got = torch.autograd.grad((y * weight).sum() + (memory(layer, state) * weight_S).sum(), parameters)
    for key, actual, exact in zip(names, got, wanted, strict=True):
        assert torch.allclose(actual, exact, rtol=1e-8, atol=1e-8 * exact.abs().max().item()), key


@pytest.mark.parametrize("name", CASES)
def test_float32_and_steps_equal_the_definition(name: str) -> None:
    """Over more than one chunk."""
    layer = make(name)
    u = torch.randn(2, 75, layer.input_dim)
    with torch.no_grad():
        expected, S = run(layer, u)
        y, last = layer(u)
        scale, size = expected.abs().max().item(), S.abs().max().item()
        assert torch.allclose(y.double(), expected, rtol=1e-4, atol=1e-4 * scale)
        assert torch.allclose(memory(layer, last).double(), S, rtol=1e-4, atol=1e-5 * size)
        state = None
        for k in range(u.shape[1]):
            y_k, state = layer.step(u[:, k], state)
            assert torch.allclose(y_k, y[:, k], rtol=1e-4, atol=1e-4 * scale)
        assert state is not None
        assert torch.allclose(state, last, rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cut", [1, 70])
def test_a_sequence_may_be_cut_anywhere_and_run_on(name: str, cut: int) -> None:
    layer = make(name).double()
    u = torch.randn(2, 73, layer.input_dim, dtype=torch.float64)
    with torch.no_grad():
        whole, last = layer(u)
        first, state = layer(u[:, :cut])
        second, end = layer(u[:, cut:], state)
        assert torch.allclose(torch.cat((first, second), 1), whole, atol=1e-9)
        assert torch.allclose(end, last, atol=1e-10)
        assert layer(u, final_state=False)[1].numel() == 0


@pytest.mark.parametrize("name", ["gla", "retnet", "gated-deltanet"])
def test_sizes_follow_parameters_that_a_cut_replaces(name: str) -> None:
    """The first two key channels of every head alone."""
    layer = make(name)
    heads, old = layer.num_heads, layer.state_dim
    rows = torch.cat([old * m + torch.arange(2) for m in range(heads)])
    cut = ("q_proj", "k_proj", "q_conv1d", "k_conv1d", "gk_proj.1")
    kept = {key: value[rows] if key.startswith(cut) else value for key, value in layer.state_dict().items()}
    small = type(layer)(layer.input_dim, 2, num_heads=heads, value_dim=layer.value_dim)
    small.load_state_dict(kept)
    for key, value in layer.named_parameters():
        value.data = kept[key]
    u = torch.randn(2, 9, layer.input_dim)
    assert layer.state_dim == 2
    assert torch.equal(layer(u)[0], small(u)[0])


@pytest.mark.parametrize("name", CASES)
def test_autocast_keeps_the_recurrence_in_float32(name: str) -> None:
    layer = make(name)
    u = torch.randn(2, 17, layer.input_dim)
    with torch.no_grad():
        exact, last = layer(u)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, state = layer(u)
            y_k, state_k = layer.step(u[:, 0])
            layer.step(u[:, 1], state_k)
    assert state.dtype == state_k.dtype == torch.float32
    relative = (y.float() - exact).norm() / exact.norm()
    assert relative < 0.05
    assert (y_k.float() - exact[:, 0]).norm() / exact[:, 0].norm() < 0.05
    assert (state - last).norm() / last.norm() < 0.05


def test_retnet_commutes_with_changes_of_basis() -> None:
    """Any invertible map of a head's keys, and its inverse transpose on the queries, changes nothing."""
    layer = make("retnet").double()
    u = torch.randn(2, 20, 6, dtype=torch.float64)
    before = layer(u)[0]
    with torch.no_grad():
        for m in range(3):
            rows = slice(4 * m, 4 * m + 4)
            T = torch.randn(4, 4, dtype=torch.float64)
            layer.k_proj.weight[rows] = T @ layer.k_proj.weight[rows]
            layer.q_proj.weight[rows] = torch.linalg.inv(T).T @ layer.q_proj.weight[rows]
    assert torch.allclose(layer(u)[0], before, atol=1e-9)


def test_wrong_uses_say_what_to_do() -> None:
    for kind in (GatedLinearAttention, RetNet, DeltaNet, GatedDeltaNet):
        name = kind.__name__
        with pytest.raises(ValueError, match=rf"{name}: num_heads is 4, which does not divide input_dim = 6"):
            kind(6, 3)
        with pytest.raises(ValueError, match=rf"{name}: state_dim is 0"):
            kind(8, 0)
        with pytest.raises(ValueError, match=rf"{name}: num_heads is 0"):
            kind(8, 3, num_heads=0)
        layer = kind(8, 3)
        assert f"{name}(\n  input_dim=8, state_dim=3, num_heads=4, value_dim=2" in repr(layer)
        with pytest.raises(ValueError, match=rf"{name}: inputs have shape \(2, 7, 4\)"):
            layer(torch.randn(2, 7, 4))
        with pytest.raises(ValueError, match=rf"{name}: input has shape \(2, 4\)"):
            layer.step(torch.randn(2, 4))
        with pytest.raises(TypeError, match=rf"{name}: inputs are torch.float64"):
            layer(torch.randn(2, 7, 8, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"A state from before a cut does not fit"):
            layer(torch.randn(2, 7, 8), torch.zeros(2, 4, 9, 2).flatten(1))
    with pytest.raises(ValueError, match=r"gate_normalizer is 0; it must be positive"):
        GatedLinearAttention(8, 3, gate_normalizer=0)


def test_options_are_typed() -> None:
    settings: dict[str, Any] = {"num_heads": 2, "heads": 3}
    with pytest.raises(TypeError, match="heads"):
        RetNet(8, 3, **settings)
