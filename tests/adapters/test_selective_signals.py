"""Moments of a selective layer's states: against autograd through a slow float64 recurrence."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.adapters import selective_signals
from compressm.adapters.selective_signals import adjoint_moments, state_moments
from compressm.layers import Mamba

BATCH, LENGTH = 3, 7


def layer_of(dtype: torch.dtype = torch.float64) -> Mamba:
    torch.manual_seed(0)
    layer = Mamba(4, 5, dt_min=0.1, dt_max=0.8).to(dtype)
    torch.nn.init.normal_(layer.A_log)
    return layer


def signals() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    u, weight = (torch.randn(BATCH, LENGTH, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    return u, weight


def brute_force(layer: Mamba, u: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """States and, by autograd, gradients of ``sum(weight y)`` by them: (batch, L, d, N) each."""
    rank, N = layer.dt_rank, layer.state_dim
    states, outputs = [], []
    for sequence in u:
        h = torch.zeros(layer.inner_dim, N, dtype=u.dtype)
        window = torch.zeros(layer.inner_dim, 4, dtype=u.dtype)
        for u_t in sequence:
            x, z = (layer.in_proj.weight @ u_t).chunk(2)
            window = torch.cat((window[:, 1:], x[:, None]), dim=1)
            x = F.silu((window * layer.conv1d.weight[:, 0]).sum(dim=1) + layer.conv1d.bias)
            selected = layer.x_proj.weight @ x
            B, C = selected[rank : rank + N], selected[rank + N :]
            delta = torch.log1p(torch.exp(layer.dt_proj.weight @ selected[:rank] + layer.dt_proj.bias))
            h = torch.exp(-delta[:, None] * layer.A_log.exp()) * h + torch.outer(delta * x, B)
            h.retain_grad()
            states.append(h)
            outputs.append(layer.out_proj.weight @ ((h @ C + layer.D * x) * F.silu(z)))
    (torch.stack(outputs).view_as(weight) * weight).sum().backward()
    shape = (BATCH, LENGTH, layer.inner_dim, N)
    adjoints = torch.stack([h.grad for h in states])  # type: ignore[misc]
    return torch.stack(states).detach().view(shape), adjoints.view(shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_moments_are_those_of_states_and_of_gradients_by_them(dtype: torch.dtype) -> None:
    layer, (u, weight) = layer_of(dtype), signals()
    expected = brute_force(layer_of(dtype).double(), u.to(dtype).double(), weight.to(dtype).double())
    u, weight = u.to(dtype), weight.to(dtype)
    found = state_moments(layer, [u]), adjoint_moments(layer, [u], [weight])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for moments, x in zip(found, expected, strict=True):
        assert moments.gramian.dtype == moments.energies.dtype == torch.float64
        gramian = torch.einsum("btdn,btdm->nm", x, x) / (BATCH * LENGTH)
        assert torch.allclose(moments.gramian, gramian, atol=tolerance * float(gramian.abs().max()))
        energies = x.square().mean(dim=(0, 1))
        assert torch.allclose(moments.energies, energies, atol=tolerance * float(energies.max()))


def test_pieces_and_several_recordings_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, (u, weight) = layer_of(), signals()
    whole = adjoint_moments(layer, [u], [weight])
    monkeypatch.setattr(selective_signals, "_TOGETHER", 2 * layer.A_log.numel())
    parts = adjoint_moments(layer, [u[:1], u[1:]], [weight[:1], weight[1:]])
    assert torch.allclose(parts.gramian, whole.gramian, rtol=1e-12)
    assert torch.allclose(parts.energies, whole.energies, rtol=1e-12)


def test_of_many_steps_a_part_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, (u, weight) = layer_of(), signals()
    states, _ = brute_force(layer_of(), u, weight)
    monkeypatch.setattr(selective_signals, "MAX_STATE_ROWS", BATCH * LENGTH * layer.inner_dim // 3)
    found = state_moments(layer, [u]).energies
    assert torch.allclose(found, states[:, 1::3].square().mean(dim=(0, 1)), rtol=1e-10)
    monkeypatch.setattr(selective_signals, "MAX_STEPS", BATCH * LENGTH // 3)
    monkeypatch.setattr(selective_signals, "MAX_STATE_ROWS", 1 << 20)
    assert torch.allclose(state_moments(layer, [u]).energies, states[0].square().mean(dim=0), rtol=1e-10)


def test_what_does_not_belong_together_is_refused() -> None:
    layer, (u, weight) = layer_of(), signals()
    with pytest.raises(ValueError, match="there are none"):
        state_moments(layer, [])
    with pytest.raises(ValueError, match="recorded gradients, and there are none"):
        adjoint_moments(layer, [u], [])
    with pytest.raises(ValueError, match="do not belong together"):
        adjoint_moments(layer, [u], [weight[:2]])
    with pytest.raises(ValueError, match="inputs hold values that are not finite"):
        state_moments(layer, [u / 0.0])
