"""Mamba channel by channel: bases against Lyapunov's equation, the run against a slow loop."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor

from compressm.layers import LRU, Mamba
from compressm.models import LanguageModel
from compressm.rivals.channelwise import ChannelwiseMamba, channel_bases, channelwise


def layer_of(states: int) -> Mamba:
    torch.manual_seed(0)
    layer = Mamba(2, states, dt_min=0.2, dt_max=0.8).double()
    torch.nn.init.normal_(layer.A_log)
    torch.nn.init.normal_(layer.x_proj.weight)
    return layer


def inputs() -> Tensor:
    return torch.randn(3, 12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def averages(layer: Mamba, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of time steps, B and C, with the layer's own modules."""
    x = layer.in_proj(u).chunk(2, dim=-1)[0]
    x = F.silu(layer.conv1d(x)[0])
    dt, B, C = layer.x_proj(x).split((layer.dt_rank, layer.state_dim, layer.state_dim), dim=-1)
    return F.softplus(layer.dt_proj(dt)).mean((0, 1)), B.mean((0, 1)), C.mean((0, 1))


def test_bases_balance_the_average_of_every_channel() -> None:
    layer, u = layer_of(4), inputs()
    right, left = channel_bases(layer, [u[:1], u[1:]], 2)
    with torch.no_grad():
        delta, B, C = averages(layer, u)
        A = -torch.exp(layer.A_log)
    for d in range(layer.inner_dim):
        decay, b = torch.diag(torch.exp(delta[d] * A[d])), (delta[d] * B)[:, None]
        P = torch.as_tensor(solve_discrete_lyapunov(decay.numpy(), (b @ b.mT).numpy()))
        Q = torch.as_tensor(solve_discrete_lyapunov(decay.numpy(), (C[:, None] @ C[None]).numpy()))
        hsv = torch.linalg.eigvals(P @ Q).real.clamp(min=0).sqrt().sort(descending=True).values[:2]
        assert torch.allclose(left[d] @ right[d], torch.eye(2, dtype=P.dtype), atol=1e-8)
        assert torch.allclose(left[d] @ P @ left[d].mT, torch.diag(hsv), rtol=1e-6, atol=1e-9)
        assert torch.allclose(right[d].mT @ Q @ right[d], torch.diag(hsv), rtol=1e-6, atol=1e-9)


def test_with_a_tolerance_every_channel_has_a_rank_of_its_own() -> None:
    layer, u = layer_of(4), inputs()
    _, left = channel_bases(layer, [u], 4)
    right, _ = channel_bases(layer, [u], 4, tolerance=0.02)
    ranks = (right != 0).any(dim=1).sum(dim=1)
    assert len(ranks.unique()) > 1
    with torch.no_grad():
        delta, B, _ = averages(layer, u)
        A = -torch.exp(layer.A_log)
    for d, rank in enumerate(ranks.tolist()):
        decay, b = torch.diag(torch.exp(delta[d] * A[d])), (delta[d] * B)[:, None]
        P = torch.as_tensor(solve_discrete_lyapunov(decay.numpy(), (b @ b.mT).numpy()))
        values = (left[d] @ P @ left[d].mT).diagonal()
        assert float(values[rank:].sum()) <= 0.02 * float(values.sum()) < float(values[rank - 1 :].sum())


def test_with_all_states_it_is_the_layer() -> None:
    layer, u = layer_of(2), inputs()
    whole = channelwise(layer, 2, [u])
    assert isinstance(whole, ChannelwiseMamba)
    assert torch.allclose(whole(u)[0], layer(u)[0], atol=1e-7)


def test_fewer_states_run_projected_at_every_step() -> None:
    layer, u = layer_of(4), inputs()
    smaller: Any = channelwise(layer, 2, [u])
    assert (smaller.state_dim, layer.state_dim) == (2, 4)
    rank, outputs = layer.dt_rank, []
    with torch.no_grad():
        x, z = layer.in_proj(u[0]).chunk(2, dim=-1)
        x = F.silu(layer.conv1d(x[None])[0][0])
        selected = layer.x_proj(x)
        delta = F.softplus(layer.dt_proj(selected[:, :rank]))
        for d in range(layer.inner_dim):
            h, column = torch.zeros(2, dtype=u.dtype), []
            for t in range(len(x)):
                T_r, T_l = smaller.right[d], smaller.left[d]
                decay = T_l @ torch.diag(torch.exp(-delta[t, d] * layer.A_log[d].exp())) @ T_r
                h = decay @ h + T_l @ selected[t, rank : rank + 4] * delta[t, d] * x[t, d]
                column.append(selected[t, rank + 4 :] @ T_r @ h + layer.D[d] * x[t, d])
            outputs.append(torch.stack(column))
        expected = layer.out_proj(torch.stack(outputs, dim=1) * F.silu(z))
    assert torch.allclose(smaller(u)[0][0], expected, atol=1e-12)
    assert not torch.allclose(expected, layer(u)[0][0], atol=1e-4)


def test_a_copy_of_a_model_runs_and_the_model_stays() -> None:
    torch.manual_seed(0)
    model = LanguageModel(7, num_layers=2, model_dim=8, state_dim=6, mixer="mamba")
    tokens = torch.randint(7, (3, 9))
    before = model(tokens)
    smaller = channelwise(model, 3, [(tokens, tokens)])
    assert smaller.state_dims == [3, 3]
    assert smaller(tokens).shape == before.shape
    assert model.training
    assert torch.equal(model(tokens), before)
    assert not any(isinstance(module, ChannelwiseMamba) for module in model.modules())


def test_a_model_of_transformers_runs_and_refuses_a_cache() -> None:
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=7, hidden_size=8, state_size=3, num_hidden_layers=1, use_mambapy=True
    )
    model = transformers.MambaForCausalLM(config).eval()
    mixer = model.backbone.layers[0].mixer
    for part in (mixer.in_proj, mixer.x_proj, mixer.out_proj, model.backbone.embeddings):
        torch.nn.init.normal_(part.weight)
    torch.nn.init.constant_(mixer.dt_proj.bias, 0.5)
    tokens = torch.randint(7, (3, 9))
    batch = {"input_ids": tokens, "use_cache": False}
    with torch.no_grad():
        expected = model(**batch).logits
        smaller: Any = channelwise(model, 3, [batch])
        assert torch.allclose(smaller(**batch).logits, expected, atol=1e-4)
        assert not torch.allclose(channelwise(model, 1, [batch])(**batch).logits, expected, atol=1e-2)
    with pytest.raises(ValueError, match="leave out cache"):
        smaller(tokens, use_cache=True)


def test_what_does_not_serve_is_refused() -> None:
    with pytest.raises(ValueError, match="no Mamba layer"):
        channelwise(LRU(2, 3), 2, [inputs()])
    with pytest.raises(ValueError, match=r"'Mamba': states is 5; take 1 to 4"):
        channelwise(layer_of(4), 5, [inputs()])
    with pytest.raises(ValueError, match="no batches"):
        channelwise(layer_of(4), 2, [])
