"""Mamba layers of other libraries, at random and tiny: unused states go, and nothing else changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from mambapy import mamba as stock
from torch import Tensor, nn

import compressm
from compressm.adapters import Weighting, find_layers
from compressm.adapters.mamba_structure import is_mamba, is_normalized
from compressm.compression.optimizer_state import replace_value

STATES, KEPT, UNUSED = 8, 5, (1, 4, 6)


def transformers_mamba() -> Any:
    config = transformers.MambaConfig(
        vocab_size=13,
        hidden_size=8,
        state_size=STATES,
        num_hidden_layers=2,
        time_step_rank=2,
        use_mambapy=True,
    )
    return transformers.MambaForCausalLM(config)


def falcon_mamba() -> Any:
    config = transformers.FalconMambaConfig(
        vocab_size=13, hidden_size=8, state_size=STATES, num_hidden_layers=2, time_step_rank=2,
        mixer_rms_eps=1e-3, use_mambapy=True,
    )  # fmt: skip
    return transformers.FalconMambaForCausalLM(config)


def jamba() -> Any:
    config = transformers.JambaConfig(
        vocab_size=13, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_experts=1, num_experts_per_tok=1, attn_layer_period=2, attn_layer_offset=1,
        mamba_d_state=STATES, mamba_dt_rank=2, rms_norm_eps=1e-3, use_mambapy=True, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.JambaForCausalLM(config)


class Peer(nn.Module):
    """A language model around mambapy's layers."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(13, 8)
        self.mamba = stock.Mamba(stock.MambaConfig(d_model=8, n_layers=2, d_state=STATES, **options))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.mamba(self.embeddings(tokens)), self.embeddings.weight)


def mambapy() -> Peer:
    return Peer()


def mambapy_with_norms() -> Peer:
    return Peer(inner_layernorms=True, rms_norm_eps=1e-3)


def mambapy_with_norms_without_weights() -> Peer:
    return Peer(inner_layernorms=True, rms_norm_eps=1e-3, mup=True)


PLAIN = [transformers_mamba, mambapy]
NORMED = [falcon_mamba, jamba, mambapy_with_norms, mambapy_with_norms_without_weights]


def made(make: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """A model in evaluation mode, and its Mamba layers."""
    torch.manual_seed(0)
    model = make().eval()
    layers = [found.module for found in find_layers(model)]
    for layer in layers:
        assert is_mamba(layer)
        for name, parameter in layer.named_parameters():
            if name.endswith("layernorm.weight") or name in ("D", "A_log"):
                nn.init.uniform_(parameter, 0.5, 1.5)
        nn.init.normal_(layer.x_proj.weight, std=0.3)
    return model, layers


def silence(layer: Any, *, both: bool = True) -> None:
    """Let unused states read nothing and, of normed layers, say nothing: a norm sees either."""
    rank = layer.dt_proj.weight.shape[1]
    for n in UNUSED:
        if both or n != UNUSED[0]:
            layer.x_proj.weight.data[rank + n] = 0.0
        if both or n == UNUSED[0]:
            layer.x_proj.weight.data[rank + STATES + n] = 0.0


def tokens() -> Tensor:
    return torch.randint(3, 13, (3, 9), generator=torch.Generator().manual_seed(2))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        out = model(tokens())
    found: Tensor = getattr(out, "logits", out)
    return found


def batches(model: Any) -> dict[str, Any]:
    """Calibration as each kind of model takes it."""
    if isinstance(model, Peer):
        return {
            "calibration": [(tokens(), tokens().roll(-1, 1))],
            "loss": lambda out, targets: F.cross_entropy(out.flatten(0, 1), targets.flatten()),
        }
    return {"calibration": [{"input_ids": tokens(), "labels": tokens()}]}


@pytest.mark.parametrize("make", PLAIN)
@pytest.mark.parametrize("reduction", ["balanced", "states", "gradients", "energy", "magnitude"])
def test_unused_states_go_from_plain_layers(make: Callable[[], Any], reduction: str) -> None:
    model, layers = made(make)
    for layer in layers:
        silence(layer, both=False)
    before = logits(model)
    parameters = [id(parameter) for parameter in model.parameters()]
    compressm.compress(model, rank=compressm.FixedRank(KEPT), reduction=reduction, **batches(model))
    assert [tuple(layer.A_log.shape) for layer in layers] == [(16, KEPT)] * 2
    assert (logits(model) - before).abs().max() <= 1e-6
    assert [id(parameter) for parameter in model.parameters()] == parameters


@pytest.mark.parametrize("make", NORMED)
@pytest.mark.parametrize("reduction", ["energy", "magnitude"])
def test_unused_states_go_from_normed_layers(make: Callable[[], Any], reduction: str) -> None:
    model, layers = made(make)
    for layer in layers:
        assert is_normalized(layer)
        silence(layer)
    before = logits(model)
    compressm.compress(model, rank=compressm.FixedRank(KEPT), reduction=reduction, **batches(model))
    assert [layer.A_log.shape[1] for layer in layers] == [KEPT] * len(layers)
    assert (logits(model) - before).abs().max() <= 1e-6


@pytest.mark.parametrize("make", NORMED)
def test_moments_of_normed_layers_move_exactly(make: Callable[[], Any]) -> None:
    model, layers = made(make)
    layer = layers[0]
    silence(layer)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        out = model(tokens())
        getattr(out, "logits", out).square().sum().backward()
        return {name: parameter.grad.double() for name, parameter in layer.named_parameters()}

    before = gradients()
    found = find_layers(model)[0]
    updates = found.adapter.write_back(layer, found.select("magnitude", Weighting()).truncate(KEPT))
    for name, update in updates.items():
        replace_value(found.parameter(name), update.value)  # type: ignore[arg-type]
    found.refresh()
    after = gradients()
    for name in updates.keys() & after.keys():
        move, square = updates[name].first_moment, updates[name].second_moment
        assert move is not None
        assert square is not None
        assert torch.allclose(
            move(before[name]), after[name], rtol=1e-3, atol=1e-5 * before[name].abs().max()
        )
        assert torch.allclose(
            square(before[name] ** 2), after[name] ** 2, rtol=1e-3, atol=1e-5 * before[name].abs().max() ** 2
        )


@pytest.mark.parametrize("make", [transformers_mamba, falcon_mamba, jamba])
def test_generation_goes_on_with_a_smaller_cache(make: Callable[[], Any]) -> None:
    """Token by token through the cache, as in one pass without it."""
    model, layers = made(make)
    compressm.compress(model, rank=compressm.FixedRank(3), **batches(model))
    out = model.generate(
        tokens(), max_new_tokens=4, min_new_tokens=4, do_sample=False, return_dict_in_generate=True
    )
    again = tokens()
    for _ in range(4):
        with torch.no_grad():
            again = torch.cat((again, model(again).logits[:, -1:].argmax(dim=-1)), dim=1)
    assert torch.equal(out.sequences, again)
    assert {layer.ssm_state_size for layer in layers} == {3}


def test_mambapys_blocks_step_with_sizes_of_their_own() -> None:
    model, layers = made(mambapy)
    compressm.compress(layers[0], rank=compressm.FixedRank(3), reduction="balanced")
    assert [layer.config.d_state for layer in layers] == [3, STATES]
    assert model.mamba.config.d_state == STATES
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        caches = [(None, torch.zeros(2, 16, 3)) for _ in layers]
        stepped = []
        for x_t in x.unbind(1):
            y_t, caches = model.mamba.step(x_t, caches)
            stepped.append(y_t)
        assert torch.allclose(torch.stack(stepped, 1), model.mamba(x), atol=1e-6)


@pytest.mark.parametrize("make", [falcon_mamba, jamba])
def test_balancing_does_not_pass_a_norm(make: Callable[[], Any]) -> None:
    model, _ = made(make)
    before = logits(model)
    with pytest.raises(ValueError, match=r"normalises B and C .* take reduction='energy' or 'magnitude'"):
        compressm.compress(model, rank=compressm.FixedRank(3), reduction="gradients", **batches(model))
    assert torch.equal(logits(model), before)
    assert [look.state_dim for look in compressm.inspect(model)] == [STATES] * len(find_layers(model))


def test_what_only_resembles_a_mamba_is_left_alone() -> None:
    class TwoWays(compressm.layers.Mamba):
        """A second direction, which a cut would leave behind."""

        def __init__(self) -> None:
            super().__init__(4, STATES)
            self.A_b_log = nn.Parameter(torch.zeros(8, STATES))

    assert is_mamba(compressm.layers.Mamba(4, STATES))
    assert not is_mamba(TwoWays())
    other = compressm.layers.Mamba(4, STATES)
    other.D = nn.Parameter(torch.ones(3))
    assert not is_mamba(other)
    assert not is_mamba(compressm.layers.Mamba2(8, STATES, head_dim=4))


def test_attributes_of_the_stock_layer_follow() -> None:
    """``mamba_ssm.Mamba`` splits what ``x_proj`` gives by ``d_state``."""

    class Stock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.d_state = STATES
            self.in_proj, self.out_proj = nn.Linear(4, 16, bias=False), nn.Linear(8, 4, bias=False)
            self.conv1d = nn.Conv1d(8, 8, 4, groups=8, padding=3)
            self.x_proj, self.dt_proj = nn.Linear(8, 2 + 2 * STATES, bias=False), nn.Linear(2, 8)
            self.A_log, self.D = nn.Parameter(torch.randn(8, STATES)), nn.Parameter(torch.ones(8))

    layer = Stock()
    compressm.compress(layer, rank=compressm.FixedRank(3), reduction="balanced")
    assert (layer.d_state, layer.x_proj.out_features, tuple(layer.A_log.shape)) == (3, 8, (8, 3))
